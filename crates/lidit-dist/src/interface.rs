//! The network interface that a rank's traffic takes.
#![expect(
    unsafe_code,
    reason = "getifaddrs has no safe wrapper in std; each block says what it relies on"
)]

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{io, ptr};

use crate::DistError;
use crate::place::refuse;

/// An address of one of this host's network interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interface {
    name: String,
    address: IpAddr,
}

/// The address to bind to for `asked`: an interface's name, one of this host's addresses, or a prefix of one
/// (`10.0.0.0/8`).
///
/// Of several it is the first of the family of `like`, the address by which the rendezvous is reached.
///
/// # Errors
/// Nothing here is called so; the message lists what there is.
pub fn choose(asked: &str, like: IpAddr) -> Result<IpAddr, DistError> {
    let all =
        Interface::all().map_err(|error| refuse(&[(VARIABLE, asked)], &format!("no interface is known: {error}")))?;
    pick(asked, like, &all).ok_or_else(|| {
        let known: Vec<String> = all
            .iter()
            .map(|interface| format!("{} ({})", interface.name, interface.address))
            .collect();
        let problem = format!(
            "no interface, address or prefix of this host, which has {}",
            known.join(", ")
        );
        refuse(&[(VARIABLE, asked)], &problem)
    })
}

/// The variable that asks.
pub const VARIABLE: &str = "LIDIT_INTERFACE";

fn pick(asked: &str, like: IpAddr, all: &[Interface]) -> Option<IpAddr> {
    let fits = |interface: &&Interface| match (asked.parse::<IpAddr>(), asked.split_once('/')) {
        (Ok(address), _) => interface.address == address,
        (_, Some((prefix, bits))) => is_within(interface.address, prefix, bits),
        _ => interface.name == asked,
    };
    let fitting: Vec<IpAddr> = all.iter().filter(fits).map(|interface| interface.address).collect();
    let alike = fitting.iter().find(|address| address.is_ipv4() == like.is_ipv4());
    alike.or(fitting.first()).copied()
}

fn is_within(address: IpAddr, prefix: &str, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else { return false };
    // The leading `bits` of `width` that differ, if any do.
    let same = |a: u128, b: u128, width: u32| bits <= width && (a ^ b).checked_shr(width - bits).unwrap_or(0) == 0;
    match (address, prefix.parse()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(prefix))) => {
            same(u128::from(address.to_bits()), u128::from(prefix.to_bits()), 32)
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(prefix))) => same(address.to_bits(), prefix.to_bits(), 128),
        _ => false,
    }
}

impl Interface {
    /// All of this host's, without those that only work with a scope (IPv6 link-local).
    fn all() -> io::Result<Vec<Self>> {
        let mut list: *mut libc::ifaddrs = ptr::null_mut();
        // SAFETY: `list` lives through the call, which fills it or fails.
        if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut interfaces = Vec::new();
        let mut next = list;
        while !next.is_null() {
            // SAFETY: the list came from getifaddrs and is not freed yet; its entries are linked by valid pointers.
            let entry = unsafe { &*next };
            // SAFETY: the entry is of that list.
            interfaces.extend(unsafe { Self::of(entry) });
            next = entry.ifa_next;
        }
        // SAFETY: the list came from getifaddrs, is freed once, and nothing above outlives it.
        unsafe { libc::freeifaddrs(list) };
        Ok(interfaces)
    }

    /// The entry's name and address, if it has one of the internet's.
    ///
    /// # Safety
    /// `entry` must be of a list that getifaddrs made and that is not freed yet.
    unsafe fn of(entry: &libc::ifaddrs) -> Option<Self> {
        if entry.ifa_addr.is_null() {
            return None;
        }
        // SAFETY: an address that is not null says its family, whatever it is.
        let family = i32::from(unsafe { (*entry.ifa_addr).sa_family });
        let address = match family {
            libc::AF_INET => {
                // SAFETY: the family says that this is what the pointer leads to.
                let address = unsafe { ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in>()) };
                IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr)))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that this is what the pointer leads to.
                let address = unsafe { ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in6>()) };
                IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
            }
            _ => return None,
        };
        if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            return None;
        }
        // SAFETY: getifaddrs gives every entry a name, a C string that lives as long as the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        Some(Self { name, address })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn interfaces() -> Vec<Interface> {
        [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("ib0", "10.20.0.7"),
            ("ib0", "fd00::7"),
            ("eth0", "10.30.0.7"),
        ]
        .map(|(name, address)| Interface {
            name: name.into(),
            address: address.parse().unwrap(),
        })
        .into()
    }

    #[test]
    fn names_addresses_and_prefixes_choose() {
        let all = interfaces();
        for (asked, like, chosen) in [
            ("ib0", V4, Some("10.20.0.7")),
            ("ib0", V6, Some("fd00::7")),
            ("eth0", V6, Some("10.30.0.7")),
            ("10.30.0.7", V4, Some("10.30.0.7")),
            ("10.20.0.0/16", V4, Some("10.20.0.7")),
            ("10.0.0.0/8", V4, Some("10.20.0.7")),
            ("0.0.0.0/0", V4, Some("127.0.0.1")),
            ("fd00::/8", V6, Some("fd00::7")),
            ("10.20.0.6/32", V4, None),
            ("10.20.0.7/33", V4, None),
            ("10.20.0.8", V4, None),
            ("ib", V4, None),
            ("", V4, None),
        ] {
            let chosen = chosen.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(pick(asked, like, &all), chosen, "{asked}");
        }
    }

    #[test]
    fn this_host_has_a_loopback_and_an_unknown_name_is_told_what_there_is() {
        assert_eq!(choose("127.0.0.0/8", V4).unwrap(), V4);
        let error = choose("nosuch0", V4).unwrap_err().to_string();
        assert!(error.starts_with("LIDIT_INTERFACE=nosuch0: no interface"), "{error}");
        assert!(error.contains("(127.0.0.1)"), "{error}");
    }
}
