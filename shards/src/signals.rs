//! SIGTERM and SIGINT ask for an orderly stop; shard threads are not interrupted by any signal.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Calls `stop` on a thread of its own at the first SIGTERM or SIGINT. The second one ends the process the way it would
/// have without us: who presses Ctrl-C twice means it.
///
/// ```no_run
/// let shutdown = coreline_shards::ShutdownHandle::new();
/// let asked = shutdown.clone();
/// coreline_shards::signals::on_terminate(move || asked.request())?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn on_terminate(stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("coreline-signals".into()).spawn(move || {
        let mut stop = Some(stop);
        for signal in signals.forever() {
            match stop.take() {
                Some(stop) => {
                    let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
                    tracing::info!(signal = name, "stopping");
                    stop();
                }
                None => {
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        }
    })?;
    Ok(())
}

/// Keeps signals that are sent to the process off the calling thread and the threads it makes: they would interrupt the
/// executor's system calls. Signals of the thread's own doing (SIGSEGV, SIGBUS, …) stay as they are.
#[cfg(feature = "uring")]
pub(crate) fn block_in_this_thread() {
    use libc::{SIGALRM, SIGCHLD, SIGHUP, SIGPIPE, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
    // SAFETY: the set is initialised by sigemptyset before it is used, and outlives the calls.
    #[allow(unsafe_code)]
    let failed = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIGPIPE, SIGWINCH] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    assert_eq!(failed, 0, "pthread_sigmask: {}", io::Error::from_raw_os_error(failed));
}
