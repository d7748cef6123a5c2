//! A WireGuard program: started in the foreground, then configured over its UAPI socket, since no `wg` may be here.
//!
//! Follows wireguard.com/xplatform: `PROGRAM -f INTERFACE`, a socket at `/var/run/wireguard/INTERFACE.sock`, and the
//! "set" operation.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use veil_lab::Namespace;

use super::program::Program;

pub const PORT: u16 = 51_820;
/// What wg-quick gives an interface over Ethernet.
const MTU: &str = "1420";
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A pair of X25519 keys in hexadecimal.
#[derive(Clone, Copy)]
pub struct Keys {
    pub private: &'static str,
    pub public: &'static str,
}

/// The pairs of RFC 7748, section 6.1: known to everybody, and good for a tunnel of a minute inside one machine.
pub const KEYS: [Keys; 2] = [
    Keys {
        private: "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        public: "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    },
    Keys {
        private: "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        public: "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    },
];

/// One end, as UAPI wants to hear it.
pub struct Configuration {
    pub keys: Keys,
    pub peer: Keys,
    pub peer_endpoint: Ipv4Addr,
    pub peer_address: Ipv4Addr,
}

impl Configuration {
    /// The text of the "set" operation; an empty line ends it.
    fn text(&self) -> String {
        let Configuration { keys, peer, peer_endpoint, peer_address } = self;
        format!(
            "set=1\nprivate_key={}\nlisten_port={PORT}\npublic_key={}\nendpoint={peer_endpoint}:{PORT}\n\
             allowed_ip={peer_address}/32\n\n",
            keys.private, peer.public
        )
    }
}

/// Starts `program` in `namespace`, configures it and gives its interface the address ("10.8.0.1/24").
pub fn start(
    program: &Path,
    namespace: &Namespace,
    interface: &str,
    address: &str,
    configuration: &Configuration,
    folder: &Path,
) -> Result<Program> {
    let mut command = namespace.command(program);
    command.args(["-f", interface]);
    // The Rust ones would give up root for the user sudo was called by; wireguard-go takes no notice.
    command.env("WG_SUDO", "1").env("WG_LOG_LEVEL", "error").env("LOG_LEVEL", "error");
    let mut started = Program::start(command, &folder.join(format!("{interface}.log")))?;
    let socket = connect(&mut started, &Path::new("/var/run/wireguard").join(format!("{interface}.sock")))?;
    set(socket, &configuration.text())?;
    namespace.address(interface, address)?;
    namespace.exec(["ip", "link", "set", "dev", interface, "mtu", MTU, "up"])?;
    Ok(started)
}

/// Waits for the UAPI socket.
fn connect(program: &mut Program, path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        program.check()?;
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("connecting to {}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Sends a "set" operation and waits for its `errno=0`.
fn set(mut socket: UnixStream, text: &str) -> Result<()> {
    socket.set_read_timeout(Some(READY_WITHIN))?;
    socket.write_all(text.as_bytes()).context("writing to the UAPI socket")?;
    for line in BufReader::new(socket).lines() {
        let line = line.context("reading from the UAPI socket")?;
        if let Some(number) = line.strip_prefix("errno=") {
            ensure!(number == "0", "the configuration was refused: {line}");
            return Ok(());
        }
    }
    bail!("the UAPI socket was closed without an answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration() -> Configuration {
        let (peer_endpoint, peer_address) = (Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(10, 8, 0, 2));
        Configuration { keys: KEYS[0], peer: KEYS[1], peer_endpoint, peer_address }
    }

    #[test]
    fn the_configuration_is_as_uapi_defines_it() {
        assert_eq!(
            configuration().text().lines().collect::<Vec<_>>(),
            [
                "set=1",
                "private_key=77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "listen_port=51820",
                "public_key=de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
                "endpoint=10.99.0.2:51820",
                "allowed_ip=10.8.0.2/32",
                "",
            ]
        );
        assert!(
            configuration().text().ends_with("/32\n\n"),
            "the device's own keys precede the peer's; an empty line ends all"
        );
        for keys in KEYS {
            for key in [keys.private, keys.public] {
                assert!(key.len() == 64 && key.bytes().all(|digit| digit.is_ascii_hexdigit()), "{key}");
            }
        }
    }

    #[test]
    fn an_answer_with_an_error_number_or_none_is_an_error() {
        let answered = |answer: &'static str| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer.as_bytes()).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            set(ours, "set=1\n\n").map_err(|error| error.to_string())
        };
        assert_eq!(answered("errno=0\n\n"), Ok(()));
        assert!(answered("errno=22\n\n").unwrap_err().contains("errno=22"));
        assert!(answered("").unwrap_err().contains("without an answer"));
    }
}
