//! What texts to encode are handed over to, one by one.

/// What is read at a time: little enough to stay near while it is encoded, enough to outweigh a wait for the right to read.
const PART_BYTES: usize = 1 << 20;
/// It is cut among its last bytes, as many as this.
const TAIL_BYTES: usize = 1 << 12;

/// Takes texts, whose ids come in the same order.
pub trait Intake<'t, E> {
    /// A text.
    fn text(&mut self, text: &'t str);

    /// A text that lies nowhere as a whole: `read` is asked to append the next of it, about as many bytes as it is told, and
    /// returns whether there may be more.
    ///
    /// # Errors
    ///
    /// That of `read`, which nothing may follow.
    fn parts(&mut self, read: Read<'_, E>) -> Result<(), E>;
}

/// Reads a text part by part, as [`Intake::parts`] says.
pub type Read<'r, E> = &'r mut dyn FnMut(&mut String, usize) -> Result<bool, E>;

/// Reads a text and hands on its parts as soon as they are there. `cut` finds a place to cut what was read, behind so many
/// bytes of it; without one, more is read.
pub(super) fn read_parts<E>(
    read: Read<'_, E>,
    cut: impl Fn(&str, usize) -> Option<usize>,
    mut take: impl FnMut(&str),
) -> Result<(), E> {
    let mut text = String::with_capacity(PART_BYTES + PART_BYTES / 8);
    while read(&mut text, PART_BYTES)? {
        if let Some(at) = cut(&text, text.len().saturating_sub(TAIL_BYTES)) {
            take(&text[..at]);
            text.drain(..at);
        }
    }
    take(&text);
    Ok(())
}
