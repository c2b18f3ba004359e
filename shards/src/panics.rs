//! A dead shard is a dead process.

use std::panic::PanicHookInfo;

/// Makes any panic of any thread log itself and abort the process.
///
/// A shard's tasks share state by `Rc`: after a panic in one of them nothing the others believe is known to hold, and a
/// process with a shard missing would answer for some partitions and hang for others.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        report(info);
        std::process::abort();
    }));
}

/// One line by `tracing` and, because that may not be set up or may be what panicked, one on stderr.
fn report(info: &PanicHookInfo<'_>) {
    let message = info.payload();
    let message = message
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| message.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("(unnamed)");
    let place = info.location().map_or_else(|| "(unknown place)".to_string(), ToString::to_string);
    eprintln!("panic in thread {thread} at {place}: {message}; the process ends");
    eprintln!("{}", std::backtrace::Backtrace::capture());
    tracing::error!(thread, place, "panic, the process ends: {message}");
}

/// Aborts if it is dropped by a panic: for shard threads of a process that installed no hook.
#[cfg(feature = "uring")]
#[derive(Debug)]
pub(crate) struct AbortOnPanic;

#[cfg(feature = "uring")]
impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            eprintln!("{} panicked; the process ends", thread.name().unwrap_or("a shard"));
            std::process::abort();
        }
    }
}
