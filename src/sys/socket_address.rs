//! Socket addresses in the kernel's form.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// An AF_UNSPEC address: connecting to it resets a TCP connection.
pub static UNSPECIFIED: RawAddress = RawAddress::empty();

/// A `sockaddr` of either family (or AF_UNSPEC when empty).
#[derive(Clone, Copy)]
#[repr(C)]
pub union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    /// Bytes the kernel may write.
    pub const CAPACITY: libc::socklen_t = size_of::<Self>() as libc::socklen_t;

    /// No address: AF_UNSPEC.
    pub const fn empty() -> Self {
        Self {
            v6: libc::sockaddr_in6 {
                sin6_family: libc::AF_UNSPEC as libc::sa_family_t,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
                sin6_scope_id: 0,
            },
        }
    }

    /// For a system call that reads the address.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(self).cast()
    }

    /// For a system call that writes the address.
    pub fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        std::ptr::from_mut(self).cast()
    }

    /// Bytes of the address for its family.
    pub fn len(&self) -> libc::socklen_t {
        let bytes = match i32::from(self.family()) {
            libc::AF_INET => size_of::<libc::sockaddr_in>(),
            _ => size_of::<libc::sockaddr_in6>(),
        };
        bytes as libc::socklen_t
    }

    /// True for AF_UNSPEC.
    pub fn is_empty(&self) -> bool {
        i32::from(self.family()) == libc::AF_UNSPEC
    }

    fn family(&self) -> libc::sa_family_t {
        // SAFETY: every variant begins with the family, and every constructor sets it.
        unsafe { self.family }
    }

    /// The address, or `None` if its family is not an internet one.
    pub fn to_socket_addr(&self) -> Option<SocketAddr> {
        match i32::from(self.family()) {
            libc::AF_INET => {
                // SAFETY: the family says which variant was written; all bit patterns are valid.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self {
                v4: libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                    sin_zero: [0; 8],
                },
            },
            SocketAddr::V6(address) => Self {
                v6: libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_kernels_form() {
        for text in ["127.0.0.1:80", "[2001:db8::7]:65535", "0.0.0.0:0"] {
            let Ok(address) = text.parse::<SocketAddr>() else { panic!("{text}") };
            assert_eq!(RawAddress::from(address).to_socket_addr(), Some(address));
        }
        assert_eq!(RawAddress::empty().to_socket_addr(), None);
    }
}
