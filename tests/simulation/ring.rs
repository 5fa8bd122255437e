//! The ring that a shard is given: a view of the simulated kernel.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use tidegate::clock::Now;
use tidegate::environment::Environment;
use tidegate::ring::{Completion, Operation, Received, Ring, Wait};

use super::kernel::Kernel;

/// One ring of the simulated machine.
pub(crate) struct SimulatedRing {
    kernel: Rc<RefCell<Kernel>>,
    index: usize,
    /// Buffers that the shard looks at; they go back with it.
    looked_at: HashMap<u16, Vec<u8>>,
}

impl SimulatedRing {
    pub(crate) fn new(kernel: Rc<RefCell<Kernel>>, index: usize) -> Self {
        Self { kernel, index, looked_at: HashMap::new() }
    }
}

impl Ring for SimulatedRing {
    fn start(&mut self, operation: Operation) {
        self.kernel.borrow_mut().start(self.index, operation);
    }

    fn turn(&mut self, _: Wait) -> io::Result<()> {
        Err(io::Error::other("the world waits for its shards"))
    }

    fn unsubmitted(&mut self) -> usize {
        self.kernel.borrow().unsubmitted(self.index)
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.kernel.borrow_mut().next_completion(self.index)
    }

    fn bytes(&mut self, received: &Received) -> &mut [u8] {
        let Self { kernel, index, looked_at } = self;
        let memory = looked_at
            .entry(received.buffer())
            .or_insert_with(|| kernel.borrow_mut().take_buffer(*index, received));
        &mut memory[..received.len()]
    }

    fn give_back(&mut self, received: Received) {
        let mut kernel = self.kernel.borrow_mut();
        if let Some(memory) = self.looked_at.remove(&received.buffer()) {
            kernel.put_buffer(self.index, received.buffer(), memory);
        }
        kernel.give_back(self.index, &received);
    }

    fn let_nobody_begin(&mut self) {
        self.kernel.borrow_mut().rings[self.index].listens = false;
    }

    fn backlog_is_empty(&self) -> bool {
        self.kernel.borrow().rings[self.index].backlog.is_empty()
    }

    fn file_capacity(&self) -> u32 {
        self.kernel.borrow().file_capacity(self.index)
    }
}

/// Time and chance of a world.
#[derive(Clone)]
pub(crate) struct SimulatedEnvironment {
    kernel: Rc<RefCell<Kernel>>,
}

impl SimulatedEnvironment {
    pub(crate) fn new(kernel: Rc<RefCell<Kernel>>) -> Self {
        Self { kernel }
    }
}

impl fmt::Debug for SimulatedEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedEnvironment").finish_non_exhaustive()
    }
}

impl Environment for SimulatedEnvironment {
    type Ring = SimulatedRing;

    /// Each look takes a little time, so that work has a length.
    fn now(&self) -> Now {
        let mut kernel = self.kernel.borrow_mut();
        kernel.now_ns += 100;
        Now::from_ns(kernel.now_ns)
    }

    fn wall(&self) -> Timestamp {
        let now_ns = self.kernel.borrow().now_ns;
        Timestamp::from_nanosecond(i128::from(now_ns)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        bytes.fill_with(|| kernel.random.next() as u8);
        Ok(())
    }

    fn thread_ns(&self) -> u64 {
        self.kernel.borrow().now_ns
    }

    /// The world does not let the thread go on for so long.
    fn stall(&mut self, duration: Duration) {
        self.kernel.borrow_mut().stalled_ns += duration.as_nanos() as u64;
    }
}
