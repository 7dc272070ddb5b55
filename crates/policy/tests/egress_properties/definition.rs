//! The definition: written from the rules' description with texts and plain integers, sharing nothing with the crate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as (is it IPv4, its bits).
pub(super) type Bits = (bool, u128);

pub(super) fn bits(address: IpAddr) -> Bits {
    match address {
        IpAddr::V4(address) => (true, u128::from(u32::from(address))),
        IpAddr::V6(address) => {
            let all = u128::from(address);
            if all >> 32 == 0xffff { (true, all & 0xffff_ffff) } else { (false, all) }
        }
    }
}

/// Whether `inner` lies in the network `text`.
pub(super) fn within(text: &str, (v4, value): Bits) -> bool {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let (net_v4, net) = bits(address.parse().unwrap());
    let width = if net_v4 { 32 } else { 128 };
    let length: u32 = if length.is_empty() { width } else { length.parse().unwrap() };
    net_v4 == v4 && (length == 0 || (net >> (width - length)) == (value >> (width - length)))
}

const METADATA: [&str; 6] =
    ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"];
/// Special networks besides.
const SPECIAL: [&str; 9] = [
    "127.0.0.0/8",
    "::1/128",
    "169.254.0.0/16",
    "fe80::/10",
    "224.0.0.0/4",
    "ff00::/8",
    "255.255.255.255/32",
    "0.0.0.0/32",
    "::/128",
];
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
const RESERVED: [&str; 11] = [
    "0.0.0.0/8",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
];

fn any(nets: &[&str], address: Bits) -> bool {
    nets.iter().any(|net| within(net, address))
}

pub(super) fn is_private(address: Bits) -> bool {
    any(&PRIVATE, address)
}

pub(super) fn is_public(address: Bits) -> bool {
    let given_out = address.0 || within("2000::/3", address) || within("64:ff9b::/96", address);
    given_out && !any(&SPECIAL, address) && !any(&PRIVATE, address) && !any(&RESERVED, address)
}

/// The smallest network that a network rule must lie in to open the address; `None` if the address is not closed.
pub(super) fn key(address: Bits, own: &[IpAddr]) -> Option<String> {
    let exact = || {
        let ip: IpAddr = if address.0 {
            Ipv4Addr::from(u32::try_from(address.1).unwrap()).into()
        } else {
            Ipv6Addr::from(address.1).into()
        };
        format!("{ip}/{}", if address.0 { 32 } else { 128 })
    };
    if any(&METADATA, address) {
        return Some(exact());
    }
    let loopback = within("127.0.0.0/8", address) || within("::1", address);
    if !loopback && own.iter().any(|own| bits(*own) == address) {
        return Some(exact());
    }
    SPECIAL.iter().find(|net| within(net, address)).map(|net| (*net).to_owned())
}

/// The address and all IPv4 addresses that it embeds.
pub(super) fn all(address: IpAddr) -> Vec<Bits> {
    let own = bits(address);
    let mut all = vec![own];
    let (false, value) = own else { return all };
    let mut add = |v4: u128| all.push((true, v4 & 0xffff_ffff));
    if (value >> 32 == 0 && value > 1) || within("::ffff:0:0:0/96", own) || within("64:ff9b::/96", own) {
        add(value);
    }
    if within("64:ff9b:1::/48", own) {
        // RFC 6052: bits 64 to 71 are no part of the address, whatever the prefix.
        let squeezed = |length: u32| {
            let high = value >> 64;
            let low = value & 0x00ff_ffff_ffff_ffff;
            let joined = (high << 56) | low;
            joined >> (120 - length - 32)
        };
        let candidates = [value, squeezed(48), squeezed(56), squeezed(64)].map(|bits| bits & 0xffff_ffff);
        let padding = |bits: u128| bits >> 24 == 0;
        if candidates.into_iter().all(padding) {
            add(value);
        }
        candidates.into_iter().filter(|bits| !padding(*bits)).for_each(&mut add);
    }
    if within("2002::/16", own) {
        add(value >> 80);
    }
    if within("2001::/32", own) {
        add(value >> 64);
        add(!value);
    }
    all
}
