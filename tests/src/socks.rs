//! A SOCKS5 client (RFC 1928), as a browser behind `ssh -D` has one.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

/// Connects to a host by its name, through a proxy that needs no password.
pub fn connect(proxy: SocketAddr, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    let mut request = vec![5, 1, 0, 3, host.len() as u8];
    request.extend(host.as_bytes());
    request.extend(port.to_be_bytes());
    stream.write_all(&request)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = match head[3] {
        1 => 4,
        4 => 16,
        _ => {
            let mut length = [0];
            stream.read_exact(&mut length)?;
            length[0].into()
        }
    };
    stream.read_exact(&mut vec![0; length + 2])?;
    if head[1] == 0 { Ok(stream) } else { Err(io::Error::other(format!("SOCKS error {}", head[1]))) }
}
