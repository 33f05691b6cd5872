//! The floor of TCP: payload bytes and nothing else, echoed over a socket by two processes that never sleep.
//!
//! Frames have a fixed size, so they need no header. Both sides do what any fast implementation must: take all that
//! is there in one read, answer whole frames, all of them in one write. An empty payload is a frame of one byte, since
//! something must travel.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mochi_rs::program::Outcome;

use super::super::case::Case;
use super::super::process::{self, Server};
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};
use super::super::{Setup, machine};
use super::{EchoArguments, Waiting, echo_arguments};

/// Reads are at least this large, in bytes.
const READ_MIN: usize = 64 << 10;

pub(super) fn measure(setup: &Setup<'_>, case: Case, span: Span, polite: bool) -> Outcome<Sample> {
    let mut server = Server::start("floor", &echo_arguments(setup, case, polite))?;
    let client = || {
        let mut client = Client::connect(server.address(), case.size.max(1), case.count, polite)?;
        client.echo_for(span.warmup)?;
        client.echo_for(span.duration)
    };
    client().map_err(|error| server.blame(format_args!("floor of {case}"), error).into())
}

/// The other process: echoes one connection, to its end.
pub(crate) fn serve(arguments: &EchoArguments) -> Outcome {
    process::end_with_parent()?;
    let listener = process::announce(listen(arguments), |(_, address)| address.clone()).0;
    let (stream, _) = listener.accept()?;
    match echo(ready(stream)?, arguments) {
        // The client closes in the middle of things.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
        ended => Ok(ended?),
    }
}

fn echo(mut stream: TcpStream, arguments: &EchoArguments) -> io::Result<()> {
    let mut waiting = Waiting::new(arguments.polite);
    let (frame, in_flight) = (arguments.frame.max(1), arguments.in_flight);
    // Twice what can be in flight, so that there is always room behind it.
    let mut buffer = vec![0; (2 * frame * in_flight).max(READ_MIN)];
    // What was read and not yet written lies between.
    let (mut start, mut end) = (0, 0);
    loop {
        let mut moved = 0;
        if let Some(count) = now(stream.read(&mut buffer[end..]))? {
            if count == 0 {
                return Ok(());
            }
            end += count;
            moved += count;
        }
        let whole = (end - start) / frame * frame;
        if whole > 0
            && let Some(count) = now(stream.write(&buffer[start..start + whole]))?
        {
            start += count;
            moved += count;
        }
        if start == end {
            (start, end) = (0, 0);
        } else if end == buffer.len() {
            buffer.copy_within(start.., 0);
            (start, end) = (0, end - start);
        }
        waiting.turn(moved > 0)?;
    }
}

fn listen(arguments: &EchoArguments) -> Outcome<(TcpListener, String)> {
    if let Some(cpu) = arguments.pin {
        machine::pin(cpu)?;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?.to_string();
    Ok((listener, address))
}

struct Client {
    stream: TcpStream,
    frame: usize,
    waiting: Waiting,
    input: Vec<u8>,
    output: Vec<u8>,
    owed: usize,
    /// Bytes of a frame that is not whole yet.
    part: usize,
    /// When frames in flight were sent, and how many at a time.
    sent: VecDeque<(Instant, usize)>,
}

impl Client {
    fn connect(address: &str, frame: usize, in_flight: usize, polite: bool) -> io::Result<Self> {
        Ok(Self {
            stream: ready(TcpStream::connect(address)?)?,
            frame,
            waiting: Waiting::new(polite),
            input: vec![0; (frame * in_flight).max(READ_MIN)],
            output: vec![0x5a; frame * in_flight],
            owed: frame * in_flight,
            part: 0,
            sent: VecDeque::from([(Instant::now(), in_flight)]),
        })
    }

    fn echo_for(&mut self, duration: Duration) -> Outcome<Sample> {
        let mut recorder = Recorder::new()?;
        let start = Instant::now();
        loop {
            let done = self.turn()?;
            if done == 0 {
                continue;
            }
            let now = Instant::now();
            self.record(&mut recorder, done, now)?;
            self.owed += done * self.frame;
            self.sent.push_back((now, done));
            if now - start >= duration {
                return Ok(recorder.sample(start));
            }
        }
    }

    /// Writes what is owed, takes what is there. Returns how many frames are back.
    fn turn(&mut self) -> io::Result<usize> {
        let mut moved = 0;
        if self.owed > 0
            && let Some(count) = now(self.stream.write(&self.output[..self.owed]))?
        {
            self.owed -= count;
            moved += count;
        }
        if let Some(count) = now(self.stream.read(&mut self.input))? {
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.part += count;
            moved += count;
        }
        self.waiting.turn(moved > 0)?;
        let done = self.part / self.frame;
        self.part %= self.frame;
        Ok(done)
    }

    fn record(&mut self, recorder: &mut Recorder, mut done: usize, now: Instant) -> Outcome {
        recorder.count(done as u64);
        while done > 0
            && let Some((at, count)) = self.sent.front_mut()
        {
            let these = done.min(*count);
            recorder.record(now - *at, these as u64)?;
            *count -= these;
            done -= these;
            if *count == 0 {
                self.sent.pop_front();
            }
        }
        Ok(())
    }
}

pub(super) fn ready(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// `None` for what cannot be done now.
pub(super) fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
