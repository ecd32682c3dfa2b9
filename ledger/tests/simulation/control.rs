//! A control plane. Model of `control-plane/src/app/rebuild.rs`: one call of the ledger or the store at a time, so that
//! another control plane, or a death, fits between any two.

use std::collections::VecDeque;

use super::{
    plane::Cx,
    server::{Part, Server},
    spool::Stub,
    store::Store,
    world::Flaw,
};

/// How far a look at the books has come.
#[derive(Default)]
enum Look {
    #[default]
    Nothing,
    /// The books were seen to be lost.
    Lost,
    /// Nobody is awaited.
    Delivered {
        rebuild: u64,
        under_way: Vec<Stub>,
    },
    /// The books are being filled.
    Begun {
        rebuild: u64,
        under_way: Vec<Stub>,
        token: u64,
    },
    Filling {
        rebuild: u64,
        token: u64,
        parts: VecDeque<Part>,
    },
}

#[derive(Default)]
pub struct Control {
    look: Look,
}

impl Control {
    pub fn is_filling(&self) -> bool {
        matches!(self.look, Look::Begun { .. } | Look::Filling { .. })
    }

    pub fn die(&mut self) {
        self.look = Look::Nothing;
    }

    /// One step.
    pub fn go_on(&mut self, cx: &mut Cx, server: &mut Server, store: &mut Store) {
        self.look = match std::mem::take(&mut self.look) {
            Look::Nothing if server.is_lost() => Look::Lost,
            Look::Nothing => {
                store.rebuild = None;
                Look::Nothing
            }
            Look::Lost => {
                let rebuild = store.begin_rebuild();
                let unawaited = store.rebuild.iter().flat_map(|rebuild| rebuild.deliveries.values());
                let unawaited = unawaited.flatten().cloned().collect();
                let under_way = store.delivered(rebuild);
                let under_way = if cx.is(Flaw::WaitsForNobody) { Some(unawaited) } else { under_way };
                under_way.map_or(Look::Nothing, |under_way| Look::Delivered { rebuild, under_way })
            }
            Look::Delivered { rebuild, under_way } => match server.begin() {
                Some(token) => Look::Begun { rebuild, under_way, token },
                None => Look::Nothing,
            },
            Look::Begun { rebuild, under_way, token } => {
                let parts = store.books(&under_way, cx).into();
                Look::Filling { rebuild, token, parts }
            }
            Look::Filling { rebuild, token, mut parts } => match parts.pop_front() {
                Some(part) if server.fill(token, &part) => Look::Filling { rebuild, token, parts },
                Some(_) => {
                    cx.ghost.met.note("a rebuild was taken over");
                    Look::Nothing
                }
                None if store.rebuild.as_ref().is_some_and(|under_way| under_way.id == rebuild) => {
                    store.end_rebuild(rebuild);
                    Look::Filling { rebuild, token, parts }
                }
                None => {
                    if server.fill(token, &Part::Whole) {
                        cx.ghost.met.note("books were filled");
                    }
                    Look::Nothing
                }
            },
        };
    }
}
