//! Helper threads for what would hold a core: compression, handshakes, system calls without an asynchronous form.

use std::io;

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait before [`Blocking::run`] does, for each thread.
const QUEUE_PER_THREAD: usize = 64;

/// A pool of helper threads, shared by all shards. Threads end when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Blocking(Option<flume::Sender<Job>>);

/// The closure panicked on its helper thread (in a process without [`crate::install_panic_hook`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked on its helper thread")]
pub struct BlockingFailed;

impl Blocking {
    /// A pool of `threads` helper threads, named `coreline-blocking-N`.
    ///
    /// # Panics
    /// If `threads` is 0.
    pub fn new(threads: usize) -> io::Result<Self> {
        assert!(threads > 0, "a pool without threads would never run anything");
        let (sender, jobs) = flume::bounded::<Job>(threads * QUEUE_PER_THREAD);
        for number in 0..threads {
            let jobs = jobs.clone();
            std::thread::Builder::new().name(format!("coreline-blocking-{number}")).spawn(move || {
                while let Ok(job) = jobs.recv() {
                    // A panic drops the job's sender, by which its caller learns of it; the thread goes on.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self(Some(sender)))
    }

    /// Runs everything at once, in the caller: for simulations, where a thread would be another source of chance.
    #[must_use]
    pub fn inline() -> Self {
        Self(None)
    }

    /// Runs `work` on a helper thread and waits for its result without holding the core. When all threads are busy and
    /// the queue is full, waits for room. Dropping the future does not stop work that has begun.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, BlockingFailed> {
        let Some(jobs) = &self.0 else { return Ok(work()) };
        let (sender, result) = flume::bounded(1);
        let job: Job = Box::new(move || {
            // Nobody waits any more: the result is not wanted.
            let _ = sender.send(work());
        });
        jobs.send_async(job).await.expect("the threads live as long as a sender");
        result.recv_async().await.map_err(|_| BlockingFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    /// A waker that unparks the test's thread is all that is needed here.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        loop {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            std::thread::park();
        }
    }

    #[test]
    fn work_runs_elsewhere_and_its_result_comes_back() {
        let pool = Blocking::new(2).unwrap();
        let here = std::thread::current().id();
        // Many more than the queue holds: run() waits for room.
        let all = block_on(join_all((0..1000).map(|i| {
            let pool = pool.clone();
            async move { pool.run(move || (i * 2, std::thread::current().id())).await.unwrap() }
        })));
        for (i, (value, thread)) in all.into_iter().enumerate() {
            assert_eq!(value, i * 2);
            assert_ne!(thread, here);
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_goes_on() {
        let pool = Blocking::new(1).unwrap();
        assert_eq!(block_on(pool.run(|| -> u8 { std::panic::panic_any("on purpose") })), Err(BlockingFailed));
        assert_eq!(block_on(pool.run(|| 7)), Ok(7));
    }

    #[test]
    fn inline_runs_in_the_caller() {
        let here = std::thread::current().id();
        assert_eq!(block_on(Blocking::inline().run(|| std::thread::current().id())), Ok(here));
    }
}
