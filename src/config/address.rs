//! Where the application connects.

use std::{fmt, net::SocketAddr, path::PathBuf};

use super::values::{Mismatch, Parsed, Raw, socket_address, string};

/// The longest path of a Unix socket, in bytes (unix(7), `sun_path`, less its final NUL).
const MAX_SOCKET_PATH: usize = 107;
/// The longest name that systemd gives a socket, in bytes.
const MAX_SOCKET_NAME: usize = 255;
const EXPECTED: &str = "an IP address and a port, `unix:` and an absolute path, or `systemd:` and a socket's name";

/// The local port's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a TCP port; 0 for any free one.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

/// What the local port is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// One that the process opens itself, there.
    Own(Address),
    /// The one of this name that systemd passes (systemd.socket(5), `FileDescriptorName=`).
    Systemd(String),
}

/// Returns true if other machines may reach the address.
pub(crate) fn is_exposed(address: &SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `systemd:` and a name, or the address of a socket to open.
pub(super) fn socket(raw: &Raw<'_>) -> Parsed<Socket> {
    let Some(name) = string(raw, EXPECTED)?.strip_prefix("systemd:") else { return address(raw).map(Socket::Own) };
    // As systemd has it (`fdname_is_valid`), which permits none at all too.
    let is_name =
        (1..=MAX_SOCKET_NAME).contains(&name.len()) && name.bytes().all(|b| matches!(b, b' '..=b'~') && b != b':');
    if !is_name {
        let expected = "`systemd:` and a name of at most 255 printable ASCII characters without a colon";
        return Err(Mismatch::expected(expected).hint("such as \"systemd:token-valet\""));
    }
    Ok(Socket::Systemd(name.to_owned()))
}

/// `unix:` and an absolute path, or an IP address and a port.
fn address(raw: &Raw<'_>) -> Parsed<Address> {
    let Some(path) = string(raw, EXPECTED)?.strip_prefix("unix:") else {
        return socket_address(raw).map(Address::Tcp);
    };
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(Mismatch::expected(EXPECTED).hint("such as \"unix:/run/token-valet/api.sock\""));
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err(Mismatch::expected(format!("a path of at most {MAX_SOCKET_PATH} bytes, as sockets have")));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

/// The permission bits of a file, in octal as chmod(1) has them.
pub(super) fn mode(raw: &Raw<'_>) -> Parsed<u32> {
    let expected = "permission bits in octal, such as \"0660\"";
    let text = string(raw, expected)?;
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| Mismatch::expected(expected))
}

#[cfg(test)]
mod tests {
    use super::{Address, Raw, Socket, address, mode, socket};

    #[test]
    fn an_address_is_a_port_or_the_absolute_path_of_a_socket() {
        for good in ["127.0.0.1:8080", "[::1]:0", "unix:/run/valet.sock", &format!("unix:/{}", "x".repeat(106))] {
            let address: Address = address(&Raw::Text(good)).unwrap_or_else(|_| panic!("{good}"));
            assert_eq!(address.to_string(), good);
        }
        for bad in ["unix:valet.sock", "unix:", "unix:/run/", "unix:@valet", "/run/valet.sock", "8080"] {
            assert!(address(&Raw::Text(bad)).is_err(), "{bad}");
        }
        assert!(address(&Raw::Text(&format!("unix:/{}", "x".repeat(107)))).is_err());
    }

    #[test]
    fn a_socket_of_systemd_s_has_a_name_as_systemd_gives_it() {
        for good in ["token-valet", "token-valet.socket", "a b", "x", &"x".repeat(255)] {
            let text = format!("systemd:{good}");
            assert_eq!(socket(&Raw::Text(&text)).ok(), Some(Socket::Systemd(good.to_owned())), "{good}");
        }
        for bad in ["", "a:b", "a\nb", "caf\u{e9}", "a\u{7f}", &"x".repeat(256)] {
            let problem = socket(&Raw::Text(&format!("systemd:{bad}"))).expect_err("no name").problem(bad);
            assert!(problem.contains("expected `systemd:` and a name"), "{problem}");
        }
        let own = socket(&Raw::Text("127.0.0.1:8080")).ok();
        assert_eq!(own, Some(Socket::Own(Address::Tcp(([127, 0, 0, 1], 8080).into()))));
    }

    #[test]
    fn a_mode_is_three_octal_digits_with_or_without_a_zero_before() {
        for (text, bits) in [("0660", 0o660), ("600", 0o600), ("0777", 0o777)] {
            assert_eq!(mode(&Raw::Text(text)).ok(), Some(bits), "{text}");
        }
        for bad in ["660x", "+660", "0888", "4755", "66", "00660", "rw"] {
            assert!(mode(&Raw::Text(bad)).is_err(), "{bad}");
        }
    }
}
