//! The floor of bulk transfers over TCP: bytes that stream one way over a bare socket, without a pause between one
//! transfer's worth and the next, into a buffer of the transfer's size. Two processes that never sleep, and let others
//! have the processor when there is nothing to do, as engines do.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mochi_rs::program::Outcome;

use super::super::case::Case;
use super::super::process::{self, Server};
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};
use super::super::{Setup, machine};
use super::{Waiting, tcp};

/// Bytes of a read or write call: what was fastest here, of 64 KiB to 4 MiB.
const CALL: usize = 256 << 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Bytes of the buffer
    #[arg(long)]
    size: usize,
    /// Receive instead of send
    #[arg(long)]
    receive: bool,
    #[arg(long)]
    pin: Option<usize>,
}

/// Measures the floor of the case. It takes one measurement as the case does, not the better of two: on a busy machine
/// the choice alone would be worth some tenths.
pub(super) fn measure(setup: &Setup<'_>, case: Case, span: Span) -> Outcome<Sample> {
    let mut arguments = vec![format!("--size={}", case.size)];
    arguments.extend(setup.options.pin.map(|pins| format!("--pin={}", pins.server)));
    if !case.kind.is_pull() {
        arguments.push("--receive".to_owned());
    }
    let mut server = Server::start("stream", &arguments)?;
    let client = || {
        let stream = tcp::ready(TcpStream::connect(server.address())?)?;
        let mut client = Streaming::new(stream, case.size, case.kind.is_pull());
        client.run_for(span.warmup)?;
        client.run_for(span.duration)
    };
    client().map_err(|error| server.blame(format_args!("floor of {case}"), error).into())
}

/// The other process: streams over one connection, to its end.
pub(crate) fn serve(arguments: &Arguments) -> Outcome {
    process::end_with_parent()?;
    let listen = || {
        if let Some(cpu) = arguments.pin {
            machine::pin(cpu)?;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?.to_string();
        Outcome::Ok((listener, address))
    };
    let listener = process::announce(listen(), |(_, address)| address.clone()).0;
    let stream = tcp::ready(listener.accept()?.0)?;
    let mut streaming = Streaming::new(stream, arguments.size, arguments.receive);
    loop {
        match streaming.turn() {
            Ok(_) => {}
            // The client closes in the middle of things.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// One side of the stream.
struct Streaming {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
    receives: bool,
    waiting: Waiting,
}

impl Streaming {
    fn new(stream: TcpStream, size: usize, receives: bool) -> Self {
        Self { stream, buffer: vec![0x5a; size], at: 0, receives, waiting: Waiting::new(true) }
    }

    fn run_for(&mut self, duration: Duration) -> Outcome<Sample> {
        let mut recorder = Recorder::new()?;
        let begin = Instant::now();
        let mut start = begin;
        loop {
            if !self.turn()? {
                continue;
            }
            let now = Instant::now();
            recorder.record(now - start, 1)?;
            recorder.count(1);
            start = now;
            if now - begin >= duration {
                return Ok(recorder.sample(begin));
            }
        }
    }

    /// Moves what can be moved now. `true` if a buffer's worth is complete.
    fn turn(&mut self) -> io::Result<bool> {
        let end = self.buffer.len().min(self.at + CALL);
        let part = &mut self.buffer[self.at..end];
        let moved = if self.receives { self.stream.read(part) } else { self.stream.write(part) };
        let moved = tcp::now(moved)?;
        if moved == Some(0) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.waiting.turn(moved.is_some())?;
        self.at += moved.unwrap_or(0);
        if self.at < self.buffer.len() {
            return Ok(false);
        }
        self.at = 0;
        Ok(true)
    }
}
