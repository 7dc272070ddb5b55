//! What kind of address an address is, and which IPv4 addresses hide inside an IPv6 one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The class that decides which rules can open an address.
///
/// `Public` and `Private` are what the rules of these names and rules by name cover. `Reserved` is open only to a network rule
/// that contains it. All others are special: open only to a rule that names the address, or a network inside the class's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressClass {
    /// Global unicast.
    Public,
    /// RFC 1918, unique local (fc00::/7) and carrier-grade NAT (100.64.0.0/10).
    Private,
    /// Documentation, benchmarks, protocol assignments, future use: neither public nor private.
    Reserved,
    /// 0.0.0.0 and `::`, which dial the host itself.
    Unspecified,
    /// 255.255.255.255.
    Broadcast,
    /// 224.0.0.0/4 and ff00::/8.
    Multicast,
    /// 169.254.0.0/16 and fe80::/10.
    LinkLocal,
    /// 127.0.0.0/8 and `::1`.
    Loopback,
    /// A cloud's metadata service, which hands out the host's credentials.
    Metadata,
}

impl AddressClass {
    /// Open to no class rule, no rule by name and no wide network.
    pub(crate) fn is_special(self) -> bool {
        match self {
            Self::Public | Self::Private | Self::Reserved => false,
            Self::Unspecified
            | Self::Broadcast
            | Self::Multicast
            | Self::LinkLocal
            | Self::Loopback
            | Self::Metadata => true,
        }
    }

    /// Higher is more closed. Decides which class an address has that is of two.
    fn closedness(self) -> u8 {
        match self {
            Self::Public => 0,
            Self::Private => 1,
            Self::Reserved => 2,
            Self::Unspecified => 3,
            Self::Broadcast => 4,
            Self::Multicast => 5,
            Self::LinkLocal => 6,
            Self::Loopback => 7,
            Self::Metadata => 8,
        }
    }

    /// The noun for a refusal: "127.0.0.1 is a loopback address".
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::Reserved => "a reserved address",
            Self::Unspecified => "the unspecified address",
            Self::Broadcast => "the broadcast address",
            Self::Multicast => "a multicast address",
            Self::LinkLocal => "a link-local address",
            Self::Loopback => "a loopback address",
            Self::Metadata => "the metadata service",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Reserved => "reserved",
            Self::Unspecified => "unspecified",
            Self::Broadcast => "broadcast",
            Self::Multicast => "multicast",
            Self::LinkLocal => "link-local",
            Self::Loopback => "loopback",
            Self::Metadata => "metadata",
        })
    }
}

/// The class of an address, the most closed of its own and those of the IPv4 addresses that it embeds.
///
/// ```
/// use enclave_bridge_policy::{AddressClass, classify};
/// assert_eq!(classify("64:ff9b::a9fe:a9fe".parse()?), AddressClass::Metadata);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub fn classify(address: IpAddr) -> AddressClass {
    facets(address).map(own_class).max_by_key(|class| class.closedness()).unwrap_or(AddressClass::Reserved)
}

/// The address that is dialled, and after it every IPv4 address that may be reached through it. All of them are judged.
pub(crate) fn facets(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let address = address.to_canonical();
    let embedded = match address {
        IpAddr::V4(_) => [None; 4],
        IpAddr::V6(address) => embedded(address),
    };
    std::iter::once(address).chain(embedded.into_iter().flatten().map(IpAddr::V4))
}

/// The class of an address by itself, without what it embeds. `address` is canonical.
pub(crate) fn own_class(address: IpAddr) -> AddressClass {
    if is_metadata(address) { AddressClass::Metadata } else { range_class(address) }
}

/// The class by the range of the registry alone, in which a metadata service is what its neighbours are.
pub(crate) fn range_class(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(address) => {
            V4_RANGES.iter().find(|(net, _)| net.contains(&address)).map_or(AddressClass::Public, |(_, class)| *class)
        }
        IpAddr::V6(address) => {
            V6_RANGES.iter().find(|(net, _)| net.contains(&address)).map_or(AddressClass::Reserved, |(_, class)| *class)
        }
    }
}

/// The network of a special address's class: a rule opens the address only from inside it.
pub(crate) fn class_network(address: IpAddr, class: AddressClass) -> IpNet {
    let found = match (address, class) {
        (_, AddressClass::Metadata) => None,
        (IpAddr::V4(address), _) => {
            V4_RANGES.iter().find(|(net, _)| net.contains(&address)).map(|(net, _)| IpNet::V4(*net))
        }
        (IpAddr::V6(address), _) => {
            V6_RANGES.iter().find(|(net, _)| net.contains(&address)).map(|(net, _)| IpNet::V6(*net))
        }
    };
    found.unwrap_or_else(|| IpNet::from(address))
}

fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => METADATA_V4.contains(&address),
        IpAddr::V6(address) => METADATA_V6.contains(&address),
    }
}

/// 169.254.169.254 is the metadata service of AWS and nearly every other cloud; 168.63.129.16 is Azure's (a public address by
/// its range), 100.100.100.200 Alibaba's (inside carrier-grade NAT), each documented by its owner.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];

/// AWS: the instance's metadata and EKS's credentials for pods; Google: the metadata server over IPv6.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// IANA's registry of special IPv4 addresses; the first match decides, what is not listed is public.
const V4_RANGES: [(Ipv4Net, AddressClass); 18] = [
    (v4(0, 0, 0, 0, 32), AddressClass::Unspecified),
    (v4(0, 0, 0, 0, 8), AddressClass::Reserved),
    (v4(10, 0, 0, 0, 8), AddressClass::Private),
    (v4(100, 64, 0, 0, 10), AddressClass::Private),
    (v4(127, 0, 0, 0, 8), AddressClass::Loopback),
    (v4(169, 254, 0, 0, 16), AddressClass::LinkLocal),
    (v4(172, 16, 0, 0, 12), AddressClass::Private),
    (v4(192, 0, 0, 0, 24), AddressClass::Reserved),
    (v4(192, 0, 2, 0, 24), AddressClass::Reserved),
    (v4(192, 88, 99, 0, 24), AddressClass::Reserved),
    (v4(192, 168, 0, 0, 16), AddressClass::Private),
    (v4(198, 18, 0, 0, 15), AddressClass::Reserved),
    (v4(198, 51, 100, 0, 24), AddressClass::Reserved),
    (v4(203, 0, 113, 0, 24), AddressClass::Reserved),
    (v4(224, 0, 0, 0, 4), AddressClass::Multicast),
    (v4(255, 255, 255, 255, 32), AddressClass::Broadcast),
    (v4(240, 0, 0, 0, 4), AddressClass::Reserved),
    (v4(0, 0, 0, 0, 0), AddressClass::Public),
];

/// IANA's registry of special IPv6 addresses; the first match decides, what is not listed is reserved (only 2000::/3 is given
/// out). The prefixes of NAT64 and 6to4 count as public: what they embed is judged besides.
const V6_RANGES: [(Ipv6Net, AddressClass); 12] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), AddressClass::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), AddressClass::Loopback),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), AddressClass::Public),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), AddressClass::LinkLocal),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), AddressClass::Multicast),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), AddressClass::Private),
    // Teredo, benchmarks, ORCHID: protocol assignments.
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), AddressClass::Reserved),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), AddressClass::Reserved),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), AddressClass::Reserved),
    (v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3), AddressClass::Public),
    // Local-use NAT64, named so that a reader need not wonder; the rest of the space is reserved too.
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), AddressClass::Reserved),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 0), AddressClass::Reserved),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// The IPv4 addresses that a packet to `address` may end up at.
///
/// Compatible (`::a.b.c.d`), translated (`::ffff:0:a.b.c.d`), NAT64 by its well-known prefix (RFC 6052) and by the local-use one
/// (RFC 8215, every place that RFC 6052 gives the four bytes under a prefix of 48 bits or more), 6to4 (RFC 3056), Teredo's
/// server and client (RFC 4380, the client's bits inverted). Mapped addresses never arrive here: canonical form unwraps them.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let bytes = address.octets();
    let [_, _, b2, b3, b4, b5, b6, b7, _, b9, b10, b11, b12, b13, b14, b15] = bytes;
    let last = Ipv4Addr::new(b12, b13, b14, b15);
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; 4],
        [0, 0, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            [Some(last), None, None, None]
        }
        [0x64, 0xff9b, 1, ..] => {
            let places = [
                Some(last),
                Some(Ipv4Addr::new(b6, b7, b9, b10)),
                Some(Ipv4Addr::new(b7, b9, b10, b11)),
                Some(Ipv4Addr::new(b9, b10, b11, b12)),
            ];
            // Only one place is the real one; 0.0.0.0/8 in another is the padding.
            let real = places.map(|place| place.filter(|address| address.to_bits() >> 24 != 0));
            if real.iter().all(Option::is_none) { [Some(last), None, None, None] } else { real }
        }
        [0x2002, ..] => [Some(Ipv4Addr::new(b2, b3, b4, b5)), None, None, None],
        [0x2001, 0, ..] => {
            [Some(Ipv4Addr::new(b4, b5, b6, b7)), Some(Ipv4Addr::new(!b12, !b13, !b14, !b15)), None, None]
        }
        _ => [None; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (text, expected) in [
            ("8.8.8.8", AddressClass::Public),
            ("192.0.1.1", AddressClass::Public),
            ("100.128.0.1", AddressClass::Public),
            ("172.32.0.1", AddressClass::Public),
            ("223.255.255.255", AddressClass::Public),
            ("10.0.0.1", AddressClass::Private),
            ("100.63.255.255", AddressClass::Public),
            ("100.64.0.1", AddressClass::Private),
            ("100.127.255.255", AddressClass::Private),
            ("192.167.255.255", AddressClass::Public),
            ("192.169.0.0", AddressClass::Public),
            ("198.17.255.255", AddressClass::Public),
            ("198.20.0.0", AddressClass::Public),
            ("169.253.255.255", AddressClass::Public),
            ("169.255.0.0", AddressClass::Public),
            ("172.16.0.1", AddressClass::Private),
            ("172.31.255.255", AddressClass::Private),
            ("192.168.255.255", AddressClass::Private),
            ("0.0.0.0", AddressClass::Unspecified),
            ("0.0.0.1", AddressClass::Reserved),
            ("127.0.0.1", AddressClass::Loopback),
            ("127.255.255.255", AddressClass::Loopback),
            ("169.254.0.1", AddressClass::LinkLocal),
            ("169.254.169.254", AddressClass::Metadata),
            ("168.63.129.16", AddressClass::Metadata),
            ("100.100.100.200", AddressClass::Metadata),
            ("192.0.0.9", AddressClass::Reserved),
            ("192.0.2.1", AddressClass::Reserved),
            ("198.18.0.1", AddressClass::Reserved),
            ("198.19.255.255", AddressClass::Reserved),
            ("198.51.100.1", AddressClass::Reserved),
            ("203.0.113.7", AddressClass::Reserved),
            ("224.0.0.1", AddressClass::Multicast),
            ("239.255.255.255", AddressClass::Multicast),
            ("240.0.0.1", AddressClass::Reserved),
            ("255.255.255.255", AddressClass::Broadcast),
            ("2606:4700::1", AddressClass::Public),
            ("3000::1", AddressClass::Public),
            ("4000::1", AddressClass::Reserved),
            ("100::1", AddressClass::Reserved),
            ("fc00::1", AddressClass::Private),
            ("fdff::1", AddressClass::Private),
            ("fec0::1", AddressClass::Reserved),
            ("fe80::1", AddressClass::LinkLocal),
            ("febf::1", AddressClass::LinkLocal),
            ("ff02::1", AddressClass::Multicast),
            ("::", AddressClass::Unspecified),
            ("::1", AddressClass::Loopback),
            ("2001:db8::1", AddressClass::Reserved),
            ("3fff::1", AddressClass::Reserved),
            ("fd00:ec2::254", AddressClass::Metadata),
            ("fd00:ec2::23", AddressClass::Metadata),
            ("fd20:ce::254", AddressClass::Metadata),
            ("fd00:ec2::253", AddressClass::Private),
            // Mapped is what it maps; the others are both.
            ("::ffff:8.8.8.8", AddressClass::Public),
            ("::ffff:169.254.169.254", AddressClass::Metadata),
            ("::8.8.8.8", AddressClass::Reserved),
            ("::127.0.0.1", AddressClass::Loopback),
            ("::ffff:0:127.0.0.1", AddressClass::Loopback),
            ("64:ff9b::8.8.8.8", AddressClass::Public),
            ("64:ff9b::10.0.0.1", AddressClass::Private),
            ("64:ff9b::169.254.169.254", AddressClass::Metadata),
            ("64:ff9b:1::8.8.8.8", AddressClass::Reserved),
            ("64:ff9b:1::169.254.169.254", AddressClass::Metadata),
            ("64:ff9b:1:a9fe:a9:fe00::", AddressClass::Metadata),
            ("64:ff9b:1:a9:fe:a9fe::", AddressClass::Metadata),
            ("64:ff9b:1::a9:fea9:fe00:0", AddressClass::Metadata),
            ("2002:808:808::1", AddressClass::Public),
            ("2002:7f00:1::1", AddressClass::Loopback),
            ("2002:a9fe:a9fe::", AddressClass::Metadata),
            ("2001:0:808:808::f7f7:f7f7", AddressClass::Reserved),
            ("2001:0:a9fe:a9fe::f7f7:f7f7", AddressClass::Metadata),
            ("2001:0:808:808::5601:5601", AddressClass::Metadata),
        ] {
            assert_eq!(classify(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_special_class_has_the_network_that_opens_it() {
        for (text, expected) in [
            ("127.1.2.3", "127.0.0.0/8"),
            ("::1", "::1/128"),
            ("169.254.1.1", "169.254.0.0/16"),
            ("169.254.169.254", "169.254.169.254/32"),
            ("fe80::1", "fe80::/10"),
            ("224.1.1.1", "224.0.0.0/4"),
            ("0.0.0.0", "0.0.0.0/32"),
            ("255.255.255.255", "255.255.255.255/32"),
            ("fd00:ec2::254", "fd00:ec2::254/128"),
        ] {
            let address = text.parse().unwrap();
            assert_eq!(class_network(address, own_class(address)).to_string(), expected);
        }
    }
}
