//! A small server for probes to talk to.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::PACKET_MAX;
use crate::error::{Doing, Result};
use crate::netns::Netns;

/// What a TCP client is greeted with.
const GREETING: &[u8] = b"hello from the lab\n";

/// A TCP and a UDP server on one port of a namespace: TCP greets and echoes what it is told, UDP echoes.
pub struct EchoServer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl EchoServer {
    /// Serve on every address of the namespace; IPv6 sockets take IPv4 too.
    pub fn start(on: &Netns, port: u16) -> Result<EchoServer> {
        let any = SocketAddr::from(([0u16; 8], port));
        let sockets = on.within(|| Ok::<_, io::Error>((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        let (listener, datagrams) = sockets.doing(|| format!("listening on port {port}"))?;
        listener.set_nonblocking(true).doing(|| "setting up a socket".into())?;
        datagrams.set_read_timeout(Some(POLL)).doing(|| "setting up a socket".into())?;
        let stop = Arc::new(AtomicBool::new(false));
        let (first, second) = (stop.clone(), stop.clone());
        let threads = vec![thread::spawn(move || serve_tcp(&listener, &first)), thread::spawn(move || serve_udp(&datagrams, &second))];
        Ok(EchoServer { stop, threads })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// How often a server looks whether it should stop.
const POLL: Duration = Duration::from_millis(20);
/// How long a server listens to a client that says nothing.
const CLIENT: Duration = Duration::from_secs(2);

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => drop(thread::spawn(move || greet(stream))),
            Err(_) => thread::sleep(POLL),
        }
    }
}

fn greet(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CLIENT))?;
    stream.write_all(GREETING)?;
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer)?;
    stream.write_all(&buffer[..length])
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; PACKET_MAX];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
