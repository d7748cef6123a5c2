//! The control socket: `veil show` asks here, one JSON line in, one JSON line out.
//!
//! The event loop owns one [`ControlSocket`], watches its descriptors and brings the answers; nothing here blocks.
//! Invariants: clients, their requests and what is unsent are bounded; a socket file is removed only by whoever made it.
//!
//! A client's descriptor is watched as [`ControlSocket::interest`] says, asked anew after every `ready` and `answer`.
#![allow(unsafe_code)]
// Unsafe here: one `getsockopt(SO_PEERCRED)` into a local, to name the process that already owns a socket.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where the control sockets of this machine are.
pub const RUN_DIR: &str = "/run/veil";
/// More clients than this are turned away.
pub const CLIENTS_MAX: usize = 16;
/// A longer request is refused.
pub const REQUEST_MAX: usize = 4096;

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Everything about the tunnel, now: answered with a `show::Snapshot`.
    Show,
}

/// The answer to what is no request, or cannot be answered now.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub error: String,
}

/// One client for as long as it is connected; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(u64);

/// What came of a client's descriptor being ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client waits for [`ControlSocket::answer`].
    Request(ClientId, Request),
    /// The client is gone and its descriptor closed (epoll forgets it by itself).
    Closed(RawFd),
    /// Nothing to do until the descriptor is ready again.
    Pending,
}

/// What to watch a client's descriptor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// The next request.
    Read,
    /// Room for the rest of an answer, or for that to a request which has come along.
    Write,
    /// Nothing but its end: the answer is being made.
    Nothing,
}

/// The path of the control socket of interface `name`.
pub fn default_path(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(format!("{name}.sock"))
}

/// A listening socket and the clients connected to it.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file as we made it.
    identity: (u64, u64),
    clients: Vec<Client>,
    next_id: u64,
}

struct Client {
    id: ClientId,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    asked: bool,
    ended: bool,
}

impl ControlSocket {
    /// Listens at `path`, mode 0600; makes its directory if only that is missing. A socket nobody answers on is
    /// replaced; one that is answered on is an error naming the process.
    pub fn bind(path: &Path) -> Result<Self> {
        let shown = path.display();
        let failed = || format!("cannot make the control socket {shown}");
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
            match DirBuilder::new().mode(0o755).create(dir) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    return Err(e).with_context(|| {
                        format!("{}: run as root, or choose another place with --control", failed())
                    });
                }
                made => made.with_context(|| format!("{}: cannot make its directory", failed()))?,
            }
        }
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).with_context(failed)?;
        let address = SockAddr::unix(path).with_context(|| format!("{}: choose a shorter path", failed()))?;
        socket.bind(&address).with_context(|| match path.parent().is_some_and(Path::is_dir) {
            true => format!("{}: run as root, or choose another place with --control", failed()),
            false => {
                format!("{}: make its directory first, or choose another place with --control", failed())
            }
        })?;
        let metadata = fs::symlink_metadata(path).with_context(failed)?;
        // From here on Drop removes the file, whatever fails below.
        let this = ControlSocket {
            listener: UnixListener::from(OwnedFd::from(socket)),
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            clients: Vec::with_capacity(CLIENTS_MAX),
            next_id: 0,
        };
        // Before listen: until then nobody can connect, whatever the umask.
        fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(failed)?;
        socket2::SockRef::from(&this.listener).listen(CLIENTS_MAX as i32).with_context(failed)?;
        this.listener.set_nonblocking(true).with_context(failed)?;
        Ok(this)
    }

    /// The listening descriptor: when it is readable, call [`accept`](Self::accept).
    pub fn listener_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// Takes the clients that wait; their descriptors are new and to be watched. At most [`CLIENTS_MAX`] are kept.
    pub fn accept(&mut self) -> Vec<RawFd> {
        let mut fresh = Vec::new();
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return fresh,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {
                    continue;
                }
                Err(error) => {
                    tracing::warn!("control socket {}: cannot accept a client: {error}", self.path.display());
                    return fresh;
                }
            };
            if self.clients.len() == CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = ClientId(self.next_id);
            self.next_id += 1;
            fresh.push(stream.as_raw_fd());
            let (input, output) = (Vec::new(), Vec::new());
            self.clients.push(Client { id, stream, input, output, asked: false, ended: false });
        }
    }

    /// Goes on with a client whose descriptor is ready.
    pub fn ready(&mut self, fd: RawFd) -> Outcome {
        let Some(at) = self.clients.iter().position(|client| client.stream.as_raw_fd() == fd) else {
            return Outcome::Pending;
        };
        match self.clients[at].step() {
            Ok(Some(request)) => Outcome::Request(self.clients[at].id, request),
            Ok(None) => Outcome::Pending,
            Err(Gone) => {
                self.clients.swap_remove(at);
                Outcome::Closed(fd)
            }
        }
    }

    /// Sends the answer to a client's request; what does not fit waits for its descriptor to take it. A client that is
    /// gone by now is no error.
    pub fn answer(&mut self, id: ClientId, answer: &impl Serialize) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        client.asked = false;
        client.queue(answer);
        client.flush();
    }

    /// What to watch a client's descriptor for.
    pub fn interest(&self, fd: RawFd) -> Interest {
        match self.clients.iter().find(|client| client.stream.as_raw_fd() == fd) {
            Some(client) if client.asked => Interest::Nothing,
            Some(client) if !client.output.is_empty() || client.holds_line() => Interest::Write,
            _ => Interest::Read,
        }
    }

    /// The descriptor of a client, while it is connected.
    pub fn fd_of(&self, id: ClientId) -> Option<RawFd> {
        self.clients.iter().find(|client| client.id == id).map(|client| client.stream.as_raw_fd())
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = |m: fs::Metadata| (m.dev(), m.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // Nothing is left to do when this fails; the next start replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The client hung up, or cannot be talked to any more.
struct Gone;

impl Client {
    /// Sends what waits, then reads up to the next request.
    fn step(&mut self) -> Result<Option<Request>, Gone> {
        loop {
            self.flush();
            if self.ended {
                return Err(Gone);
            }
            if self.asked || !self.output.is_empty() {
                return Ok(None);
            }
            if let Some(end) = self.input.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(request) => {
                        self.asked = true;
                        return Ok(Some(request));
                    }
                    Err(error) => {
                        self.queue(&Refusal { error: format!("no request of this version of veil: {error}") })
                    }
                }
                continue;
            }
            if self.input.len() >= REQUEST_MAX {
                self.queue(&Refusal {
                    error: format!("a request is one line of at most {REQUEST_MAX} bytes"),
                });
                self.flush();
                return Err(Gone);
            }
            self.read()?;
            if !self.holds_line() && self.input.len() < REQUEST_MAX {
                return Ok(None);
            }
        }
    }

    /// Reads until the socket is empty or the request as long as it may be.
    fn read(&mut self) -> Result<(), Gone> {
        let mut chunk = [0; 1024];
        while self.input.len() < REQUEST_MAX {
            let room = chunk.len().min(REQUEST_MAX - self.input.len());
            match self.stream.read(&mut chunk[..room]) {
                // A request that came with the end is still answered.
                Ok(0) if self.holds_line() => return Ok(()),
                Ok(0) => return Err(Gone),
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Whether a request has come that is not answered yet.
    fn holds_line(&self) -> bool {
        self.input.contains(&b'\n')
    }

    fn queue(&mut self, answer: &impl Serialize) {
        if serde_json::to_writer(&mut self.output, answer).is_err() {
            self.ended = true;
        }
        self.output.push(b'\n');
    }

    /// Sends what the socket takes. A broken connection is noticed by the next step, which its hang-up event brings.
    fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.output.len() && !self.ended {
            match self.stream.write(&self.output[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
        self.output.drain(..sent);
    }
}

/// Removes the socket file at `path` if no process answers on it.
fn remove_stale(path: &Path) -> Result<()> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            return Err(e).with_context(|| format!("cannot look at the control socket {shown}: run as root"));
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!(
                "{shown} is in the way of the control socket: it is no socket, move it away or use --control"
            )
        }
        Ok(_) => {}
    }
    match probe(path) {
        Ok(pid) => {
            let name = path.file_stem().unwrap_or_default().display();
            let pid = pid.map_or("another process".to_owned(), |pid| format!("pid {pid}"));
            bail!(
                "interface {name} is already run by {pid} ({shown} answers): stop that one first, or use another name"
            )
        }
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove the stale control socket {shown}"))
        }
        Err(e) => {
            Err(e).with_context(|| format!("cannot ask who owns the control socket {shown}: run as root"))
        }
    }
}

/// Whether somebody listens at `path`, without waiting for them: their process id where the kernel tells it.
pub(super) fn probe(path: &Path) -> io::Result<Option<i32>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(listener_pid(&socket)),
        // A full backlog: somebody is there, but busy.
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

/// The process that called `listen` on the other end (unix(7), SO_PEERCRED).
fn listener_pid(socket: &Socket) -> Option<i32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and `len` are locals that outlive the call, and `len` is the size of `peer`.
    let result = unsafe {
        let value = (&raw mut peer).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &mut len)
    };
    (result == 0 && peer.pid > 0).then_some(peer.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Folder(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("run").join("veil7.sock")
        }

        fn bind(&self) -> ControlSocket {
            ControlSocket::bind(&self.path()).unwrap()
        }
    }

    /// A connected client, and its descriptor on the daemon's side.
    fn client(control: &mut ControlSocket) -> (UnixStream, RawFd) {
        let stream = UnixStream::connect(control.path()).unwrap();
        let fds = control.accept();
        assert_eq!(fds.len(), 1);
        (stream, fds[0])
    }

    fn line(stream: &UnixStream) -> String {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn a_request_is_answered_in_one_line() {
        let folder = Folder::new();
        let mut control = folder.bind();
        let (mut stream, fd) = client(&mut control);
        assert_eq!(control.ready(fd), Outcome::Pending);
        stream.write_all(b"{\"request\":").unwrap();
        assert_eq!(control.ready(fd), Outcome::Pending);
        stream.write_all(b"\"show\"}\n").unwrap();
        let Outcome::Request(id, Request::Show) = control.ready(fd) else { panic!("no request") };
        assert_eq!((control.ready(fd), control.interest(fd)), (Outcome::Pending, Interest::Nothing));
        assert_eq!(control.fd_of(id), Some(fd));
        control.answer(id, &"here");
        assert_eq!(control.interest(fd), Interest::Read);
        assert_eq!(line(&stream), "\"here\"\n");
        drop(stream);
        assert_eq!(control.ready(fd), Outcome::Closed(fd));
        control.answer(id, &"nobody");
    }

    #[test]
    fn requests_that_came_together_are_answered_in_turn() {
        let folder = Folder::new();
        let mut control = folder.bind();
        let (mut stream, fd) = client(&mut control);
        stream.write_all(b"{\"request\":\"show\"}\n{\"request\":\"show\"}\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        for then in [Interest::Write, Interest::Read] {
            let Outcome::Request(id, _) = control.ready(fd) else { panic!("no request") };
            assert_eq!(control.interest(fd), Interest::Nothing);
            control.answer(id, &1);
            assert_eq!(control.interest(fd), then, "nothing more comes to be read for the second");
        }
        assert_eq!(control.ready(fd), Outcome::Closed(fd));
        assert_eq!(BufReader::new(stream).lines().map_while(Result::ok).collect::<Vec<_>>(), ["1", "1"]);
    }

    #[test]
    fn a_large_answer_waits_for_its_reader() {
        let folder = Folder::new();
        let mut control = folder.bind();
        let (mut stream, fd) = client(&mut control);
        stream.write_all(b"{\"request\":\"show\"}\n").unwrap();
        let Outcome::Request(id, _) = control.ready(fd) else { panic!("no request") };
        let large = "x".repeat(4 << 20);
        control.answer(id, &large);
        assert_eq!(control.interest(fd), Interest::Write);
        // The stream comes back with the line: closing it early would be another story.
        let reader = std::thread::spawn(move || (line(&stream), stream));
        while control.interest(fd) == Interest::Write {
            assert_eq!(control.ready(fd), Outcome::Pending);
            std::thread::yield_now();
        }
        assert_eq!(reader.join().unwrap().0.len(), large.len() + 3);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let folder = Folder::new();
        let mut control = folder.bind();
        let (mut stream, fd) = client(&mut control);
        stream.write_all(b"{\"request\":\"dance\"}\n").unwrap();
        assert_eq!(control.ready(fd), Outcome::Pending);
        assert!(
            line(&stream)
                .starts_with("{\"error\":\"no request of this version of veil: unknown variant `dance`")
        );
        stream.write_all(&[b'x'; REQUEST_MAX]).unwrap();
        assert_eq!(control.ready(fd), Outcome::Closed(fd));
        assert_eq!(line(&stream), "{\"error\":\"a request is one line of at most 4096 bytes\"}\n");
    }

    #[test]
    fn clients_beyond_the_bound_are_turned_away() {
        let folder = Folder::new();
        let mut control = folder.bind();
        let streams: Vec<_> = (0..CLIENTS_MAX + 1)
            .map(|i| {
                let stream = UnixStream::connect(folder.path()).unwrap();
                assert_eq!(control.accept().len(), usize::from(i < CLIENTS_MAX));
                stream
            })
            .collect();
        assert_eq!(line(streams.last().unwrap()), "");
    }

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let folder = Folder::new();
        let control = folder.bind();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path()), 0o600);
        assert_eq!(mode(folder.path().parent().unwrap()) & !0o755, 0);
        drop(control);
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = Folder::new();
        fs::create_dir(folder.path().parent().unwrap()).unwrap();
        drop(UnixListener::bind(folder.path()).unwrap());
        let control = folder.bind();
        let error = ControlSocket::bind(&folder.path()).err().unwrap().to_string();
        let wanted = format!("interface veil7 is already run by pid {} (", std::process::id());
        assert!(error.starts_with(&wanted), "{error}");
        assert!(folder.path().exists());
        drop(control);
    }

    #[test]
    fn a_file_that_replaced_ours_is_left_alone() {
        let folder = Folder::new();
        let control = folder.bind();
        // Beside ours, then over it: the inode of a removed file could be given out again at once.
        let other = folder.path().with_extension("other");
        fs::write(&other, "other").unwrap();
        fs::rename(&other, folder.path()).unwrap();
        drop(control);
        assert!(folder.path().exists());
        let error = ControlSocket::bind(&folder.path()).err().unwrap().to_string();
        assert!(error.contains("is in the way of the control socket: it is no socket"), "{error}");
    }

    #[test]
    fn a_missing_place_is_named_with_the_cure() {
        let error = ControlSocket::bind(Path::new("/nonexistent/a/b.sock")).err().unwrap();
        let text = format!("{error:#}");
        assert!(text.starts_with("cannot make the control socket /nonexistent/a/b.sock: "), "{text}");
    }
}
