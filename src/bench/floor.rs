//! The floor of TCP: payload bytes and nothing else, echoed over a socket by two processes that never sleep.
//!
//! Frames have a fixed size, so they need no header. Both sides do what any fast implementation must: take all that
//! is there in one read, answer whole frames, all of them in one write. An empty payload is a frame of one byte, since
//! something must travel.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use mochi_rs::program::Outcome;

use super::case::Case;
use super::process::{self, Server};
use super::rounds::Span;
use super::sample::{Recorder, Sample};
use super::{Options, machine};

/// Reads are at least this large, in bytes.
const READ_MIN: usize = 64 << 10;
/// Silence of the other side after which waiting is given up.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Bytes of a frame
    #[arg(long)]
    frame: usize,
    #[arg(long)]
    in_flight: usize,
    #[arg(long)]
    pin: Option<usize>,
    /// Let others have the processor between two looks
    #[arg(long)]
    polite: bool,
}

/// Measures the floor of the case: the better of spinning without end and of giving the processor to others between
/// two looks, which is slower unless others want it.
pub(super) fn measure(options: &Options, case: Case, span: Span) -> Outcome<Sample> {
    let shared = match options.pin {
        Some(pins) => pins.client == pins.server,
        None => machine::processors() == 1,
    };
    if shared {
        // Without giving way, each would use up its time slice before the other can answer.
        return measure_spinning(options, case, span, true);
    }
    let half = Span { duration: span.duration / 2, ..span };
    let greedy = measure_spinning(options, case, half, false)?;
    let polite = measure_spinning(options, case, half, true)?;
    Ok(case.aspect().better(greedy, polite))
}

fn measure_spinning(options: &Options, case: Case, span: Span, polite: bool) -> Outcome<Sample> {
    let frame = case.size.max(1);
    let pin = options.pin.map(|pins| pins.server.to_string());
    let [frame_text, in_flight] = [frame, case.in_flight].map(|number| number.to_string());
    let mut arguments = vec!["floor", "--frame", &frame_text, "--in-flight", &in_flight];
    if let Some(pin) = &pin {
        arguments.extend(["--pin", pin]);
    }
    if polite {
        arguments.push("--polite");
    }
    let mut server = Server::start(&arguments)?;
    let client = || {
        let mut client = Client::connect(server.address(), frame, case.in_flight, polite)?;
        client.echo_for(span.warmup)?;
        client.echo_for(span.duration)
    };
    client().map_err(|error| server.blame(format_args!("floor of {case}"), error).into())
}

/// The other process: echoes one connection, to its end.
pub(super) fn serve(arguments: &Arguments) -> Outcome {
    process::end_with_parent()?;
    let listener = process::announce(listen(arguments), |(_, address)| address.clone()).0;
    let (stream, _) = listener.accept()?;
    match echo(ready(stream)?, arguments) {
        // The client closes in the middle of things.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
        ended => Ok(ended?),
    }
}

fn echo(mut stream: TcpStream, arguments: &Arguments) -> io::Result<()> {
    let mut waiting = Waiting::new(arguments.polite);
    let Arguments { frame, in_flight, .. } = *arguments;
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

fn listen(arguments: &Arguments) -> Outcome<(TcpListener, String)> {
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

/// Spinning, though not for ever.
pub(super) struct Waiting {
    polite: bool,
    idle_turns: u64,
    idle_since: Option<Instant>,
}

impl Waiting {
    /// Looks in vain between two looks at the clock.
    const CLOCK: u64 = 1 << 16;

    pub(super) fn new(polite: bool) -> Self {
        Self { polite, idle_turns: 0, idle_since: None }
    }

    /// To be called after each look.
    pub(super) fn turn(&mut self, moved: bool) -> io::Result<()> {
        if moved {
            (self.idle_turns, self.idle_since) = (0, None);
            return Ok(());
        }
        if self.polite {
            thread::yield_now();
        }
        self.idle_turns += 1;
        if self.idle_turns.is_multiple_of(Self::CLOCK)
            && self.idle_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE
        {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}
