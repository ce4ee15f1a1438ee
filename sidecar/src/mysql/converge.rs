//! From what is true and what is ordered to the next step: pure.

use sidecar_protocol::mysql::{Assignment, Data, State};

/// Why this member must not accept `assignment`, if so (I10): a member without data never becomes a primary. `Initialise` on a
/// member that holds data is fine; it only means [`Assignment::Primary`] there.
#[must_use]
pub fn refuse(state: &State, assignment: &Assignment) -> Option<String> {
    match assignment {
        Assignment::Primary { .. } if state.data != Data::Present => {
            Some("this member holds no data: it can be initialised or cloned, not made primary".into())
        }
        _ => None,
    }
}
