//! Where the time of a step goes.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use burn::tensor::Device;

/// A part of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the loader's samples.
    Data,
    /// Pictures to what the network sees, captions to states, and laying both out on the device.
    Encode,
    /// Noise levels, the network, the loss.
    Forward,
    /// Backward to flat gradients. With recomputation also the forward passes that are run again, which its backward
    /// passes follow segment by segment.
    Backward,
    /// Gradients summed over micro-batches and ranks, and their norm.
    Reduce,
    /// Clipping, update, averages, and the weights back into the network.
    Optimizer,
    /// Drawing noise, reading the loss, judging it.
    Other,
}

impl Phase {
    /// All of them, in the order of a step.
    pub const ALL: [Self; 7] = [
        Self::Data,
        Self::Encode,
        Self::Forward,
        Self::Backward,
        Self::Reduce,
        Self::Optimizer,
        Self::Other,
    ];

    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Encode => "encode",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Reduce => "reduce",
            Self::Optimizer => "optimizer",
            Self::Other => "other",
        }
    }
}

/// Adds up the time of each phase. It waits for the device at every mark, so a step that is watched may take longer than
/// others on a device that works ahead; ordinary training has no clock.
pub struct PhaseClock {
    device: Device,
    last: Cell<Instant>,
    spent: RefCell<[Duration; Phase::ALL.len()]>,
}

impl PhaseClock {
    /// A clock for work on `device`, not yet started.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone().without_autodiff(),
            last: Cell::new(Instant::now()),
            spent: RefCell::default(),
        }
    }

    /// A step begins now: what came before belongs to no phase.
    pub fn start(&self) {
        self.wait();
        self.last.set(Instant::now());
    }

    /// What happened since the last mark was `phase`.
    pub fn mark(&self, phase: Phase) {
        self.wait();
        let now = Instant::now();
        self.spent.borrow_mut()[phase as usize] += now - self.last.replace(now);
    }

    /// What each of [`Phase::ALL`] took so far.
    pub fn spent(&self) -> [Duration; Phase::ALL.len()] {
        *self.spent.borrow()
    }

    fn wait(&self) {
        // A device that failed says so again when its numbers are read.
        let _ = self.device.sync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_belongs_to_the_phase_that_ends_it_and_none_is_lost() {
        let clock = PhaseClock::new(&Device::flex());
        std::thread::sleep(Duration::from_millis(3));
        let begun = Instant::now();
        clock.start();
        std::thread::sleep(Duration::from_millis(2));
        clock.mark(Phase::Forward);
        clock.mark(Phase::Backward);
        std::thread::sleep(Duration::from_millis(2));
        clock.mark(Phase::Forward);
        let spent = clock.spent();
        assert!(spent[Phase::Forward as usize] >= Duration::from_millis(4));
        assert!(spent.iter().sum::<Duration>() <= begun.elapsed());
        assert_eq!(spent[Phase::Data as usize], Duration::ZERO);
        assert!(Phase::ALL.iter().enumerate().all(|(i, phase)| *phase as usize == i));
    }
}
