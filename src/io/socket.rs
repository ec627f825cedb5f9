//! Owns TCP: listening, accepting, receiving and sending on one core's executor.
//! It never frames and never decodes. Every socket is non-blocking: an operation is tried
//! first and waits for readiness only when the kernel says it would block. All its life the ring watches it.
#![allow(
    unsafe_code,
    reason = "system calls on sockets; non-blocking, vectored and file sends have no safe form"
)]

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::BytesMut;

use super::watch::{Watch, Way};

/// Kernel backlog of connections not yet accepted, unless told otherwise.
const BACKLOG: i32 = 4096;

/// A bound listening socket, not yet tied to an executor; each core clones it and accepts.
#[derive(Debug)]
pub struct BoundListener {
    listener: TcpListener,
}

impl BoundListener {
    /// Binds with SO_REUSEADDR: connections that linger do not keep the port.
    pub fn bind(address: SocketAddr, backlog: Option<i32>) -> io::Result<BoundListener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // std has its own backlog; listening again only changes that.
        check(unsafe { libc::listen(listener.as_raw_fd(), backlog.unwrap_or(BACKLOG)) })?;
        Ok(BoundListener { listener })
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn try_clone(&self) -> io::Result<BoundListener> {
        Ok(BoundListener {
            listener: self.listener.try_clone()?,
        })
    }

    /// Nobody can connect any more, and the port is free although descriptors of the socket are still open:
    /// the kernel ends a process's rings, which hold some, only after the process.
    pub fn stop_listening(&self) -> io::Result<()> {
        // SAFETY: a plain system call on a descriptor that we own.
        check(unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) })?;
        Ok(())
    }
}

/// A listening socket on this core's executor.
#[derive(Debug)]
pub struct Listener {
    watch: Watch,
    listener: TcpListener,
}

impl Listener {
    /// Call on the executor that will accept.
    pub fn adopt(bound: BoundListener) -> io::Result<Listener> {
        let listener = bound.listener;
        Ok(Listener {
            watch: Watch::input(&listener),
            listener,
        })
    }

    /// The next connection and its peer. Every core that shares the socket is woken; the losers wait on.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            self.watch.begin_to_look(Way::In);
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.watch.leave_rest(Way::In);
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    do_not_pace_loopback(&stream, peer);
                    return Ok((stream, peer));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.ready(Way::In).await;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A connected stream on this core's executor.
#[derive(Debug)]
pub struct Socket {
    watch: Watch,
    stream: TcpStream,
    /// As the kernel knows it; see [`Socket::set_least`].
    least: Cell<usize>,
}

impl Socket {
    /// Call on the executor that will own the connection. The stream must be non-blocking.
    pub fn adopt(stream: TcpStream) -> Socket {
        let watch = Watch::both_ways(&stream);
        // Whoever had it before may have waited for more.
        let least = Cell::new(0);
        Socket {
            watch,
            stream,
            least,
        }
    }

    /// Connects without blocking the core.
    pub async fn connect(address: SocketAddr) -> io::Result<Socket> {
        let domain = if address.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let raw = check(unsafe { libc::socket(domain, flags, 0) })?;
        // SAFETY: the descriptor was just made and nothing else owns it.
        let stream: TcpStream =
            unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(raw) }.into();
        do_not_pace_loopback(&stream, address);
        start_connect(raw, address)?;
        let socket = Socket::adopt(stream);
        socket.writable().await;
        if let Some(error) = socket.stream.take_error()? {
            return Err(error);
        }
        socket.stream.set_nodelay(true)?;
        Ok(socket)
    }

    /// The same connection for another executor, which adopts it when this one is dropped or will not be used any more.
    pub fn to_stream(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// SO_SNDBUF and SO_RCVBUF in bytes; `None` leaves the kernel's own tuning on.
    pub fn set_buffers(&self, send: Option<usize>, receive: Option<usize>) -> io::Result<()> {
        for (option, bytes) in [(libc::SO_SNDBUF, send), (libc::SO_RCVBUF, receive)] {
            let Some(bytes) = bytes else { continue };
            self.set_option(option, bytes)?;
        }
        Ok(())
    }

    /// It becomes readable with so many bytes there, with fewer only where the kernel has no memory for as many, or where the
    /// peer has gone (SO_RCVLOWAT). Receiving takes what is there.
    pub fn set_least(&self, bytes: usize) -> io::Result<()> {
        if self.least.replace(bytes) != bytes {
            self.set_option(libc::SO_RCVLOWAT, bytes)?;
        }
        Ok(())
    }

    fn set_option(&self, option: libc::c_int, bytes: usize) -> io::Result<()> {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: the option's value is an int that lives through the call.
        check(unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const bytes).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }

    /// Whether nobody minds if what comes next is seen some milliseconds later. On a core with many sockets it then is,
    /// with that of others.
    pub fn set_unhurried(&self, unhurried: bool) {
        self.watch.set_unhurried(unhurried);
    }

    /// Resolves when there may be something to receive, or the peer has gone.
    pub async fn readable(&self) {
        self.watch.ready(Way::In).await;
    }

    /// Resolves when the peer has ended the connection, or at least its half, whatever of it is still unread.
    pub async fn peer_ended(&self) {
        self.watch.over(Way::In).await;
    }

    /// Whether there may be.
    pub fn is_readable(&self) -> bool {
        self.watch.is_ready(Way::In)
    }

    /// Receives into the buffer's spare capacity, which must not be empty, without waiting.
    /// `None` when nothing is there; `Some(0)` at the end of the stream.
    pub fn try_receive(&self, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
        let spare = buffer.spare_capacity_mut();
        assert!(!spare.is_empty(), "a receive needs room");
        let room = spare.len();
        loop {
            self.watch.begin_to_look(Way::In);
            // SAFETY: the kernel writes at most `spare.len()` bytes into memory we own.
            let received = unsafe {
                libc::recv(
                    self.stream.as_raw_fd(),
                    spare.as_mut_ptr().cast(),
                    spare.len(),
                    0,
                )
            };
            if received >= 0 {
                let received = received as usize;
                if received == room {
                    self.watch.leave_rest(Way::In);
                }
                // SAFETY: the kernel filled these bytes.
                unsafe { buffer.set_len(buffer.len() + received) };
                return Ok(Some(received));
            }
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            }
        }
    }

    /// Receives into the buffer's spare capacity; 0 at the end of the stream.
    pub async fn receive(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            self.readable().await;
            if let Some(received) = self.try_receive(buffer)? {
                return Ok(received);
            }
        }
    }

    /// Sends what the socket takes of `slices`, at least one byte.
    pub async fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.send_now(slices) {
                Ok(sent) => return Ok(sent),
                Err(error) => self.wait_if_blocked(error).await?,
            }
        }
    }

    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.watch.begin_to_look(Way::Out);
        let message = libc::msghdr {
            msg_iov: slices.as_ptr().cast_mut().cast(),
            msg_iovlen: slices.len(),
            // SAFETY: a zeroed msghdr is a valid empty one.
            ..unsafe { std::mem::zeroed() }
        };
        // SAFETY: the slices outlive the call; IoSlice has the layout of iovec.
        let sent = unsafe { libc::sendmsg(self.stream.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
        let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        self.watch.leave_rest(Way::Out);
        Ok(sent)
    }

    /// Sends what the socket takes of `length` bytes of `file` from `position`, straight from the page cache.
    /// The caller has made sure that they are resident: a miss would stall the core. 0 at the end of the file.
    pub async fn send_file(
        &self,
        file: &OwnedFd,
        position: u64,
        length: usize,
    ) -> io::Result<usize> {
        loop {
            self.watch.begin_to_look(Way::Out);
            let mut offset = position as libc::off_t;
            // SAFETY: both descriptors are open and `offset` lives through the call.
            let sent = unsafe {
                libc::sendfile(
                    self.stream.as_raw_fd(),
                    file.as_raw_fd(),
                    &mut offset,
                    length,
                )
            };
            if sent >= 0 {
                self.watch.leave_rest(Way::Out);
                return Ok(sent as usize);
            }
            self.wait_if_blocked(io::Error::last_os_error()).await?;
        }
    }

    /// Sends what the socket takes at once of `slices`; `None` when it would have to wait.
    pub fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        self.send_now(slices)
            .map(Some)
            .or_else(|error| match error {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
                error => Err(error),
            })
    }

    /// Resolves when the socket takes something again, or the peer has gone.
    pub async fn writable(&self) {
        self.watch.ready(Way::Out).await;
    }

    /// Whether the peer has ended the connection, or at least its half, whatever of it is still unread.
    pub fn peer_is_gone(&self) -> bool {
        self.is_ready_for(libc::POLLRDHUP)
    }

    /// Whether something is there to receive.
    pub fn has_input(&self) -> bool {
        self.is_ready_for(libc::POLLIN)
    }

    fn is_ready_for(&self, events: libc::c_short) -> bool {
        let mut poll = libc::pollfd {
            fd: self.stream.as_raw_fd(),
            events,
            revents: 0,
        };
        // SAFETY: one pollfd that lives through the call, which does not wait.
        let ready = unsafe { libc::poll(&mut poll, 1, 0) };
        ready > 0
    }

    /// Sends nothing more; what the peer sends is still received.
    pub fn end_sending(&self) {
        let _gone_already = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Ends both directions, so that whoever waits on this socket wakes up.
    pub fn shutdown(&self) {
        let _gone_already = self.stream.shutdown(std::net::Shutdown::Both);
    }

    async fn wait_if_blocked(&self, error: io::Error) -> io::Result<()> {
        match error {
            error if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable().await;
                Ok(())
            }
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        }
    }
}

/// Where the system's congestion control is one that paces (bbr), a connection within the machine is held to
/// a rate measured by timers: at 256 KiB a send it moves little more than half of what it could.
/// There is no congestion to control; reno is in every kernel and does nothing until a packet is lost.
pub fn do_not_pace_loopback(stream: &TcpStream, peer: SocketAddr) {
    if !peer.ip().to_canonical().is_loopback() {
        return;
    }
    let name = b"reno";
    // SAFETY: the option's value lives through the call. A refusal leaves the system's choice.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        );
    }
}

fn start_connect(raw: i32, address: SocketAddr) -> io::Result<()> {
    let connected = match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: the name lives through the call and its length is its own.
            unsafe { libc::connect(raw, (&raw const name).cast(), size_of_val(&name) as u32) }
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { libc::connect(raw, (&raw const name).cast(), size_of_val(&name) as u32) }
        }
    };
    match check(connected) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::{Either, select};

    use super::*;
    use crate::io::timer;

    fn on_two_ends(test: impl AsyncFnOnce(Socket, Socket) + Send + 'static) {
        let executor = glommio::LocalExecutorBuilder::default();
        let executor = executor.spawn(|| async {
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            let bound = BoundListener::bind(address, None).unwrap();
            let address = bound.local_address().unwrap();
            let listener = Listener::adopt(bound).unwrap();
            let connecting = Socket::connect(address);
            let (accepted, connected) = futures::join!(listener.accept(), connecting);
            test(Socket::adopt(accepted.unwrap().0), connected.unwrap()).await;
        });
        executor.unwrap().join().unwrap();
    }

    async fn send_all(socket: &Socket, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = socket.send(&[IoSlice::new(bytes)]).await.unwrap();
            bytes = &bytes[sent..];
        }
    }

    #[test]
    fn all_comes_in_pieces_of_any_size_and_then_the_end() {
        on_two_ends(async |here, there| {
            let sent: Vec<u8> = (0..3_000_000u32).map(|byte| byte as u8).collect();
            let sending = async {
                send_all(&there, &sent).await;
                there.end_sending();
            };
            let receiving = async {
                let mut received = BytesMut::new();
                let mut room = 1;
                loop {
                    received.reserve(room);
                    room = room * 2 % 70_001;
                    if here.receive(&mut received).await.unwrap() == 0 {
                        return received;
                    }
                }
            };
            let ((), received) = futures::join!(sending, receiving);
            assert!(received == sent);
        });
    }

    #[test]
    fn fewer_bytes_than_are_wanted_wake_nobody_until_fewer_are_wanted_or_no_more_come() {
        on_two_ends(async |here, there| {
            let mut received = BytesMut::with_capacity(300_000);
            here.set_least(100_000).unwrap();
            send_all(&there, &[1; 60_000]).await;
            assert!(!here.has_input());
            send_all(&there, &[2; 60_000]).await;
            here.receive(&mut received).await.unwrap();
            assert!(received.len() >= 100_000);
            while received.len() < 120_000 {
                here.set_least(1).unwrap();
                here.receive(&mut received).await.unwrap();
            }
            here.set_least(100_000).unwrap();
            send_all(&there, &[3; 10]).await;
            here.set_least(1).unwrap();
            assert_eq!(here.receive(&mut received).await.unwrap(), 10);
            here.set_least(100_000).unwrap();
            send_all(&there, &[4; 10]).await;
            there.end_sending();
            assert_eq!(here.receive(&mut received).await.unwrap(), 10);
            assert_eq!(here.receive(&mut received).await.unwrap(), 0);
        });
    }

    #[test]
    fn a_peer_that_has_ended_its_half_is_waited_for_while_it_takes_nothing() {
        on_two_ends(async |here, there| {
            there.end_sending();
            here.readable().await;
            let all = vec![7; 32 << 20];
            let sending = std::pin::pin!(send_all(&here, &all));
            let before = crate::io::clock::thread_cpu();
            let pause = timer::sleep(Duration::from_millis(200));
            let Either::Right(((), sending)) = select(sending, pause).await else {
                panic!("no socket takes so much");
            };
            let used = crate::io::clock::thread_cpu() - before;
            assert!(used < Duration::from_millis(150), "{used:?}");
            let mut received = BytesMut::new();
            let receiving = async {
                while received.len() < all.len() {
                    received.reserve(1 << 20);
                    assert_ne!(there.receive(&mut received).await.unwrap(), 0);
                }
            };
            futures::join!(sending, receiving);
        });
    }

    #[test]
    fn among_many_what_nobody_hurries_about_is_seen_and_so_is_the_next_that_somebody_does() {
        on_two_ends(async |here, there| {
            let others: Vec<_> = (0..600)
                .map(|_| {
                    let stream = here.stream.try_clone().unwrap();
                    (Watch::both_ways(&stream), stream)
                })
                .collect();
            let mut received = BytesMut::with_capacity(1000);
            for round in 0..20 {
                here.set_unhurried(round % 3 != 2);
                if round % 2 == 0 {
                    timer::sleep(Duration::from_millis(1)).await;
                }
                send_all(&there, b"beat").await;
                assert_eq!(here.receive(&mut received).await.unwrap(), 4);
            }
            here.set_unhurried(true);
            drop(there);
            here.peer_ended().await;
            assert_eq!(here.receive(&mut received).await.unwrap(), 0);
            drop(others);
        });
    }

    #[test]
    fn a_reader_learns_that_its_peer_has_gone_whatever_comes_before() {
        on_two_ends(async |here, there| {
            send_all(&there, b"last words").await;
            drop(there);
            let mut received = BytesMut::with_capacity(100);
            assert_eq!(here.receive(&mut received).await.unwrap(), 10);
            assert_eq!(here.receive(&mut received).await.unwrap(), 0);
            assert!(here.peer_is_gone());
        });
    }
}
