//! Opening one connection without waiting for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

/// Loopback source addresses 127.0.0.2 to 127.0.0.250, taken in turn.
const SOURCES: usize = 249;

/// Begins to connect. The outcome shows when the stream becomes writable.
///
/// Towards a loopback server each connection gets one of many source addresses: one address would
/// run out of ports, and a server that counts connections per address would see a single client.
pub(crate) fn dial(to: SocketAddr, conn: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let IpAddr::V4(address) = to.ip()
        && address.is_loopback()
    {
        sys::bind_address_no_port(&socket)?;
        socket.bind(&SocketAddr::from((source(conn), 0)).into())?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    Ok(TcpStream::from_std(socket.into()))
}

fn source(conn: usize) -> Ipv4Addr {
    let last = u8::try_from(conn % SOURCES).unwrap_or_default() + 2;
    Ipv4Addr::new(127, 0, 0, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stay_within_their_range() {
        assert_eq!(source(0), Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(source(248), Ipv4Addr::new(127, 0, 0, 250));
        assert_eq!(source(249), Ipv4Addr::new(127, 0, 0, 2));
    }
}
