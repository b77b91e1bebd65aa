//! The sockets of a process: which addresses a descriptor stands between.
//!
//! From `/proc/PID/net/*`, which is the process's own network namespace, by the socket's inode
//! (proc_pid_net(5)). Our own reader, with a cap: these tables are as long as the host has connections.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Process;

/// The most that is read of one table: some 100,000 sockets.
const MOST_TABLE: u64 = 16 << 20;

/// A socket, as far as the kernel's tables tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "socket")]
pub struct Socket {
    /// What it speaks.
    #[schemars(extend("enum" = ["tcp", "udp", "unix"]))]
    pub protocol: String,
    /// Its own address and port, or path.
    pub local: Option<String>,
    /// The peer's address and port, or path; null where it has none, or the kernel does not tell (Unix sockets).
    pub remote: Option<String>,
    /// The state of a TCP connection, as ss(8) has it.
    pub state: Option<String>,
    /// How many bytes were sent and not acknowledged by the peer's machine yet.
    pub unacknowledged: Option<u64>,
}

impl Socket {
    /// The socket with this inode, in the tables that `process` sees.
    pub fn find(process: &Process, inode: u64) -> Option<Self> {
        const TABLES: [(&str, &str); 5] = [
            ("net/tcp", "tcp"),
            ("net/tcp6", "tcp"),
            ("net/udp", "udp"),
            ("net/udp6", "udp"),
            ("net/unix", "unix"),
        ];
        TABLES.iter().find_map(|(file, protocol)| {
            let mut table = Vec::new();
            let opened = process.open_file(file).ok()?;
            opened.take(MOST_TABLE).read_to_end(&mut table).ok()?;
            match *protocol {
                "unix" => in_unix_table(&table, inode),
                _ => in_inet_table(&table, protocol, inode),
            }
        })
    }

    /// How to name it in a sentence.
    pub fn describe(&self) -> String {
        let name = match self.protocol.as_str() {
            "unix" => "Unix socket",
            "udp" => "UDP socket",
            _ => "socket",
        };
        let mut text = match (&self.remote, &self.local) {
            (Some(remote), _) => format!("a {name} to {remote}"),
            (None, Some(local)) => format!("a {name} at {local}"),
            (None, None) => format!("a {name}"),
        };
        if let Some(state) = self.state.as_ref().filter(|s| *s != "ESTABLISHED") {
            text.push_str(&format!(" ({state})"));
        }
        text
    }
}

/// Searches a table of `net/tcp`'s form: `sl local remote state tx:rx tr:when retransmits uid timeout inode …`.
pub(crate) fn in_inet_table(table: &[u8], protocol: &str, inode: u64) -> Option<Socket> {
    table.split(|b| *b == b'\n').find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        let [_, local, remote, state, queues, .., its_inode] = fields[..] else {
            return None;
        };
        if its_inode.parse() != Ok(inode) {
            return None;
        }
        let unsent = queues.split_once(':')?.0;
        Some(Socket {
            protocol: protocol.to_owned(),
            local: address(local).map(|a| a.to_string()),
            remote: address(remote)
                .filter(|a| a.port() != 0)
                .map(|a| a.to_string()),
            state: (protocol == "tcp").then(|| tcp_state(state)).flatten(),
            unacknowledged: u64::from_str_radix(unsent, 16).ok(),
        })
    })
}

/// Searches `net/unix`: `Num RefCount Protocol Flags Type St Inode Path`.
pub(crate) fn in_unix_table(table: &[u8], inode: u64) -> Option<Socket> {
    table.split(|b| *b == b'\n').find_map(|line| {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split_ascii_whitespace();
        if fields.nth(6)?.parse() != Ok(inode) {
            return None;
        }
        Some(Socket {
            protocol: "unix".into(),
            local: fields.next().map(str::to_owned),
            remote: None,
            state: None,
            unacknowledged: None,
        })
    })
}

/// `0100007F:1538`: the address as 32-bit words of the machine's own byte order, the port as a number
/// (net/ipv4/tcp_ipv4.c, get_tcp4_sock; net/ipv6/tcp_ipv6.c).
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// include/net/tcp_states.h
fn tcp_state(text: &str) -> Option<String> {
    const STATES: [&str; 12] = [
        "ESTABLISHED",
        "SYN-SENT",
        "SYN-RECV",
        "FIN-WAIT-1",
        "FIN-WAIT-2",
        "TIME-WAIT",
        "CLOSE",
        "CLOSE-WAIT",
        "LAST-ACK",
        "LISTEN",
        "CLOSING",
        "NEW-SYN-RECV",
    ];
    let number = usize::from_str_radix(text, 16).ok()?;
    Some((*STATES.get(number.checked_sub(1)?)?).to_owned())
}

/// The peer that a `struct sockaddr` names, for connect(2): `<linux/in.h>`, `<linux/in6.h>`, `<linux/un.h>`.
pub fn peer_in(sockaddr: &[u8]) -> Option<Socket> {
    let family = u16::from_ne_bytes(sockaddr.get(..2)?.try_into().ok()?);
    let port = || Some(u16::from_be_bytes(sockaddr.get(2..4)?.try_into().ok()?));
    let ip = |ip: IpAddr| Some(SocketAddr::new(ip, port()?).to_string());
    let (protocol, remote) = match i32::from(family) {
        libc::AF_INET => {
            let bytes: [u8; 4] = sockaddr.get(4..8)?.try_into().ok()?;
            ("tcp", ip(Ipv4Addr::from(bytes).into())?)
        }
        libc::AF_INET6 => {
            let bytes: [u8; 16] = sockaddr.get(8..24)?.try_into().ok()?;
            ("tcp", ip(Ipv6Addr::from(bytes).to_canonical())?)
        }
        libc::AF_UNIX => {
            let path = sockaddr.get(2..)?;
            let path = path.split(|b| *b == 0).next().filter(|p| !p.is_empty())?;
            ("unix", String::from_utf8_lossy(path).into_owned())
        }
        _ => return None,
    };
    Some(Socket {
        protocol: protocol.into(),
        local: None,
        remote: Some(remote),
        state: None,
        unacknowledged: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &[u8] = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0\n\
        1: 0100007F:A2C4 0302010A:0599 02 00000010:00000000 01:00000010 00000001     0        0 4712 2 0000000000000000 20 4 30 10 -1\n";

    #[test]
    fn sockets_as_the_kernel_lists_them() {
        let listening = in_inet_table(TCP, "tcp", 4711).unwrap();
        assert_eq!(listening.local.as_deref(), Some("127.0.0.1:5432"));
        assert_eq!(listening.describe(), "a socket at 127.0.0.1:5432 (LISTEN)");
        let connecting = in_inet_table(TCP, "tcp", 4712).unwrap();
        assert_eq!(
            connecting.describe(),
            "a socket to 10.1.2.3:1433 (SYN-SENT)"
        );
        assert_eq!(connecting.unacknowledged, Some(16));
        assert_eq!(in_inet_table(TCP, "tcp", 1), None);
        let six = "0: 00000000000000000000000001000000:0016 0000000000000000FFFF00000302010A:0050 01 0:0 0:0 0 0 0 9";
        let six = in_inet_table(six.as_bytes(), "tcp", 9).unwrap();
        assert_eq!(six.local.as_deref(), Some("[::1]:22"));
        assert_eq!(six.remote.as_deref(), Some("10.1.2.3:80"));
        let unix = b"Num RefCount\n0: 2 0 10000 1 1 77 /tmp/s\n0: 2 0 0 1 3 78\n";
        let at = in_unix_table(unix, 77).unwrap();
        assert_eq!(at.describe(), "a Unix socket at /tmp/s");
        assert_eq!(in_unix_table(unix, 78).unwrap().describe(), "a Unix socket");
    }

    #[test]
    fn hostile_tables_are_no_answer() {
        for line in [
            "",
            "0: : : : : : : : : 5",
            "0: x:y x:y 1 0 0 0 0 0 5",
            "0: ÄÖÜ0:1 00000000:0 zz 0:0 0 0 0 0 5 6 7",
        ] {
            let found = in_inet_table(line.as_bytes(), "tcp", 5);
            assert!(found.is_none_or(|s| s.remote.is_none()), "{line}");
        }
        assert_eq!(address("ÄÖÜÄ:1"), None);
        assert_eq!(tcp_state("0"), None);
        assert_eq!(tcp_state("FF"), None);
    }

    #[test]
    fn peers_of_a_connect() {
        let mut four = vec![2, 0, 0x05, 0x99, 10, 1, 2, 3];
        assert_eq!(
            peer_in(&four).unwrap().describe(),
            "a socket to 10.1.2.3:1433"
        );
        four.truncate(7);
        assert_eq!(peer_in(&four), None);
        let unix = b"\x01\x00/run/x.sock\0rest";
        assert_eq!(
            peer_in(unix).unwrap().remote.as_deref(),
            Some("/run/x.sock")
        );
        assert_eq!(peer_in(&[]), None);
        assert_eq!(peer_in(&[10, 0, 1, 1]), None);
    }
}
