//! What is closed to every wide rule, written from the policy's description with texts and plain integers. And the
//! spellings of addresses that some C library, resolver or browser takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// The host's own addresses, for every policy of the targets.
pub(super) const OWN: [&str; 4] = ["10.0.0.5", "198.51.100.5", "2600::5", "fe80::5"];

/// Networks that are open only to a rule inside of them, metadata services besides.
const SPECIAL: [&str; 14] = [
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "0.0.0.0/32",
    "168.63.129.16/32",
    "100.100.100.200/32",
    "::1/128",
    "::/128",
    "fe80::/10",
    "ff00::/8",
    "fd00:ec2::254/128",
    "fd00:ec2::23/128",
    "fd20:ce::254/128",
];

/// An address as (is it IPv4, its bits); a mapped one is IPv4.
type Bits = (bool, u128);

fn bits(address: IpAddr) -> Bits {
    match address {
        IpAddr::V4(address) => (true, u128::from(u32::from(address))),
        IpAddr::V6(address) => match u128::from(address) {
            mapped if mapped >> 32 == 0xffff => (true, mapped & 0xffff_ffff),
            all => (false, all),
        },
    }
}

/// Whether two addresses are one to whoever dials them.
pub(super) fn is_same(one: IpAddr, other: IpAddr) -> bool {
    bits(one) == bits(other)
}

/// A network: its address, and how many bits stand behind its prefix.
type Net = (Bits, u32);

fn net(text: &str) -> Net {
    let (address, length) = text.split_once('/').unwrap();
    let address = bits(address.parse().unwrap());
    (address, (if address.0 { 32 } else { 128 }) - length.parse::<u32>().unwrap())
}

fn is_within(((net_v4, net), behind): Net, (v4, value): Bits) -> bool {
    net_v4 == v4 && net >> behind == value >> behind
}

static SPECIAL_NETS: LazyLock<Vec<Net>> = LazyLock::new(|| SPECIAL.map(net).to_vec());
static OWN_BITS: LazyLock<Vec<Bits>> = LazyLock::new(|| OWN.map(|own| bits(own.parse().unwrap())).to_vec());

/// Networks whose addresses embed an IPv4 address: translated, NAT64 by its two prefixes, 6to4, Teredo.
static EMBEDDING: LazyLock<[Net; 5]> =
    LazyLock::new(|| ["::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"].map(net));

/// Whether an address is open to no wide rule: by itself, or by an IPv4 address that it leads to.
pub(super) fn is_closed(address: IpAddr) -> bool {
    let closed = |address| OWN_BITS.contains(&address) || SPECIAL_NETS.iter().any(|net| is_within(*net, address));
    reached(address).into_iter().any(closed)
}

/// The address and every IPv4 address that it embeds.
fn reached(address: IpAddr) -> Vec<Bits> {
    let own = bits(address);
    let mut all = vec![own];
    let (false, value) = own else { return all };
    let low = |bits: u128| bits & 0xffff_ffff;
    let [translated, nat64, local_nat64, six_to_four, teredo] = EMBEDDING.map(|net| is_within(net, own));
    if (value >> 32 == 0 && value > 1) || translated || nat64 {
        all.push((true, low(value)));
    }
    if local_nat64 {
        // RFC 6052: bits 64 to 71 are no part of the address, whatever the prefix.
        let joined = ((value >> 64) << 56) | (value & 0x00ff_ffff_ffff_ffff);
        let places = [value, joined >> 40, joined >> 32, joined >> 24].map(low);
        let real: Vec<u128> = places.into_iter().filter(|bits| bits >> 24 != 0).collect();
        if real.is_empty() {
            all.push((true, low(value)));
        }
        all.extend(real.into_iter().map(|bits| (true, bits)));
    }
    if six_to_four {
        all.push((true, low(value >> 80)));
    }
    if teredo {
        all.push((true, low(value >> 64)));
        all.push((true, low(!value)));
    }
    all
}

/// The ways of hiding an IPv4 address in an IPv6 one.
pub(super) fn hidden(address: Ipv4Addr, form: u8) -> Ipv6Addr {
    let bits = u128::from(u32::from(address));
    let (high, low) = (bits >> 16, bits & 0xffff);
    Ipv6Addr::from(match form % 11 {
        0 => 0xffff << 32 | bits,
        1 => bits,
        2 => 0xffff << 48 | bits,
        3 => 0x64_ff9b << 96 | bits,
        4 => 0x64_ff9b_0001 << 80 | bits,
        5 => 0x64_ff9b_0001 << 80 | high << 64 | low << 40,
        6 => 0x64_ff9b_0001 << 80 | (bits >> 24) << 64 | (bits & 0xff_ffff) << 32,
        7 => 0x64_ff9b_0001 << 80 | bits << 24,
        8 => 0x2002 << 112 | bits << 80 | 1,
        9 => 0x2001 << 112 | bits << 64 | 0xf7f7_f7f7,
        _ => 0x2001 << 112 | 0x0808_0808 << 64 | (!bits & 0xffff_ffff),
    })
}

/// What `inet_aton` takes a text for: one to four numbers, each decimal, octal or hexadecimal, the last of them filling up.
pub(super) fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    let mut numbers = Vec::new();
    for part in &parts {
        let lower = part.to_ascii_lowercase();
        let (digits, base) = match lower.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
            None => (lower.as_str(), 10),
        };
        let digits = if digits.is_empty() && base == 16 { "0" } else { digits };
        if digits.starts_with('+') {
            return None;
        }
        numbers.push(u64::from_str_radix(digits, base).ok()?);
    }
    let (last, first) = numbers.split_last()?;
    let room = 32_u32.checked_sub(8 * u32::try_from(first.len()).ok()?).filter(|room| *room > 0)?;
    if first.iter().any(|number| *number > 255) || *last >= 1 << room {
        return None;
    }
    let head = first.iter().fold(0_u64, |head, number| head << 8 | number);
    Some(Ipv4Addr::from((head << room | last) as u32))
}

/// One of the spellings that [`inet_aton`] takes: how many parts, the base of each, zeros before it, letters.
pub(super) fn spelled(address: Ipv4Addr, parts: u8, forms: [u8; 4]) -> String {
    let parts = usize::from(parts % 4) + 1;
    let room = 8 * (5 - parts as u32);
    let value = u64::from(u32::from(address));
    let mut numbers: Vec<u64> = address.octets()[..parts - 1].iter().map(|octet| u64::from(*octet)).collect();
    numbers.push(value & ((1 << room) - 1));
    let texts: Vec<String> = numbers
        .iter()
        .zip(forms)
        .map(|(number, form)| {
            let zeros = "0".repeat(usize::from(form >> 2 & 3));
            match form & 3 {
                0 => number.to_string(),
                1 => format!("0{zeros}{number:o}"),
                2 => format!("0x{zeros}{number:x}"),
                _ => format!("0X{zeros}{number:X}"),
            }
        })
        .collect();
    texts.join(".")
}

/// Whether an address embeds that IPv4 address.
pub(super) fn leads_to(address: IpAddr, v4: Ipv4Addr) -> bool {
    reached(address).contains(&bits(v4.into()))
}
