//! The floor of calls through shared memory: payloads, handed back and forth by two processes that never sleep and make
//! no system call.
//!
//! Each call in flight has a slot there and a slot back, each with a line of its own for the number by which it is handed
//! over. Both sides copy the payload in and out, as they would have to if it were a message.

use std::fs::File;
use std::time::{Duration, Instant};

use mochi_rs::program::Outcome;

use super::super::case::Case;
use super::super::process::{self, Server};
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};
use super::super::{Setup, machine};
use super::mapping::Slots;
use super::{EchoArguments, Waiting, echo_arguments};

/// With several in flight, one of so many is timed: the clock takes as long as the echo.
const TIMED_EVERY: u64 = 16;

pub(super) fn measure(setup: &Setup<'_>, case: Case, span: Span, polite: bool) -> Outcome<Sample> {
    let mut server = Server::start("share", &echo_arguments(setup, case, polite))?;
    let client = || {
        let mut client = Client::open(server.address(), case, polite)?;
        client.echo_for(span.warmup)?;
        client.echo_for(span.duration)
    };
    client().map_err(|error| server.blame(format_args!("floor of {case}"), error).into())
}

/// The other process: echoes until it is ended.
pub(crate) fn serve(arguments: &EchoArguments) -> Outcome {
    process::end_with_parent()?;
    let EchoArguments { frame, in_flight, .. } = *arguments;
    let (slots, _file, _) = process::announce(share(arguments), |(_, _, path)| path.clone());
    let mut payload = vec![0; frame];
    let mut waiting = Waiting::new(arguments.polite);
    let mut number = 1;
    loop {
        for slot in 0..in_flight {
            while slots.number(slot) != number {
                waiting.turn(false)?;
            }
            waiting.turn(true)?;
            slots.read(slot, &mut payload);
            slots.write(in_flight + slot, &payload);
            slots.hand_over(in_flight + slot, number);
        }
        number += 1;
    }
}

fn share(arguments: &EchoArguments) -> Outcome<(Slots, File, String)> {
    if let Some(cpu) = arguments.pin {
        machine::pin(cpu)?;
    }
    Ok(Slots::create(2 * arguments.in_flight, arguments.frame)?)
}

struct Client {
    slots: Slots,
    in_flight: usize,
    payload: Vec<u8>,
    answer: Vec<u8>,
    waiting: Waiting,
    /// Of the lap around the slots.
    number: u64,
}

impl Client {
    fn open(path: &str, case: Case, polite: bool) -> Outcome<Self> {
        let client = Self {
            slots: Slots::open(path, 2 * case.count, case.size)?,
            in_flight: case.count,
            payload: vec![0x5a; case.size],
            answer: vec![0; case.size],
            waiting: Waiting::new(polite),
            number: 1,
        };
        (0..client.in_flight).for_each(|slot| client.send(slot, client.number));
        Ok(client)
    }

    fn send(&self, slot: usize, number: u64) {
        self.slots.write(slot, &self.payload);
        self.slots.hand_over(slot, number);
    }

    fn receive(&mut self, slot: usize) -> Outcome {
        while self.slots.number(self.in_flight + slot) != self.number {
            self.waiting.turn(false)?;
        }
        self.waiting.turn(true)?;
        self.slots.read(self.in_flight + slot, &mut self.answer);
        Ok(())
    }

    fn echo_for(&mut self, duration: Duration) -> Outcome<Sample> {
        let mut recorder = Recorder::new()?;
        let timed_every = if self.in_flight == 1 { 1 } else { TIMED_EVERY };
        let start = Instant::now();
        let mut sent = start;
        loop {
            // Slot 0 is the one that is timed.
            let [ends, begins] = [self.number, self.number + 1].map(|number| number.is_multiple_of(timed_every));
            let mut over = false;
            for slot in 0..self.in_flight {
                self.receive(slot)?;
                if slot == 0 && (ends || begins) {
                    let now = Instant::now();
                    if ends {
                        recorder.record(now - sent, 1)?;
                        over = now - start >= duration;
                    }
                    sent = now;
                }
                self.send(slot, self.number + 1);
            }
            self.number += 1;
            recorder.count(self.in_flight as u64);
            if over {
                return Ok(recorder.sample(start));
            }
        }
    }
}
