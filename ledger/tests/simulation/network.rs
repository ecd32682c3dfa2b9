//! Messages under way: each may be lost, come twice, or come after any that was sent later.

use nullspend_ledger::conformance::Random;

use super::{
    server::{Ask, Told},
    spool::{Closed, Stub},
};

/// Which life of which data plane: an answer to an earlier one is for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    pub plane: usize,
    pub life: u32,
}

#[derive(Clone, Debug)]
pub enum Packet {
    Ask { from: Who, call: u64, ask: Ask },
    Told { to: Who, call: u64, told: Told },
    Report { from: Who, call: u64, ends: Vec<Closed>, last: usize },
    Acked { to: Who, call: u64, last: usize },
    Deliver { from: Who, rebuild: u64, attempts: Vec<Stub> },
    Delivered { to: Who, rebuild: u64, kept: bool },
}

pub struct Net {
    packets: Vec<Packet>,
    calls: u64,
    pub faulty: bool,
}

/// One message in so many is lost, and one comes twice.
const FAULT_ONE_IN: u64 = 14;

impl Net {
    pub fn new() -> Self {
        Self { packets: Vec::new(), calls: 0, faulty: true }
    }

    /// A number for a call, so that its answer is known.
    pub fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    pub fn send(&mut self, packet: Packet) {
        self.packets.push(packet);
    }

    /// The connections to the ledger broke with it: what was asked and not carried out never will be.
    pub fn lose_asked(&mut self) {
        self.packets.retain(|packet| !matches!(packet, Packet::Ask { .. }));
    }

    /// What arrives next.
    pub fn arrives(&mut self, random: &mut Random) -> Option<Packet> {
        if self.packets.is_empty() {
            return None;
        }
        let at = usize::try_from(random.below(self.packets.len() as u64)).unwrap();
        if !self.faulty {
            return Some(self.packets.remove(at));
        }
        match random.below(FAULT_ONE_IN) {
            0 => {
                self.packets.swap_remove(at);
                None
            }
            1 => Some(self.packets[at].clone()),
            _ => Some(self.packets.swap_remove(at)),
        }
    }
}
