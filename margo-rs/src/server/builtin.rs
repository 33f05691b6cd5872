//! The RPCs that every engine has, as Margo's do: `__identity__` and `__shutdown__`.

use super::handler::{Handler, Registration};
use crate::codec::HgString;
use crate::engine::Core;
use crate::rpc::{ProviderId, Rpc};
use std::sync::{Arc, Weak};

/// What a provider announced about itself.
pub(crate) const IDENTITY: Rpc<(), HgString> = Rpc::new("__identity__");
/// Ends the engine; answers 0, or -1 if that is not allowed.
pub(crate) const SHUTDOWN: Rpc<(), i32> = Rpc::new("__shutdown__");

/// A handler that announces `identity`.
pub(crate) fn identity(identity: Option<&str>) -> Handler {
    let identity = identity.map_or(HgString::NULL, HgString::new);
    Handler::future(move |_request, ()| std::future::ready(Ok(identity.clone())))
}

/// Registers both without a provider. The engine itself announces nothing.
pub(crate) fn register(core: &Arc<Core>) {
    let weak: Weak<Core> = Arc::downgrade(core);
    let shutdown = Handler::deferred(move |request, (), responder| {
        let core = weak.upgrade();
        async move {
            let allowed = core.as_ref().is_some_and(|core| core.lifecycle.may_shut_down(&request));
            tracing::info!(peer = %request.peer(), allowed, "remote shutdown requested");
            responder.respond(&if allowed { 0i32 } else { -1 });
            if let (true, Some(core)) = (allowed, core) {
                core.begin_shutdown();
            }
        }
    });
    for (name, handler) in [(IDENTITY.name(), identity(None)), (SHUTDOWN.name(), shutdown)] {
        let registration = Registration::new(name, ProviderId::DEFAULT, false, handler, None);
        if let Err(error) = core.register(registration) {
            unreachable!("the registry of a new engine is empty: {error}");
        }
    }
}
