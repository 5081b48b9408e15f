//! What goes out: what a session has to say is sent at the end of the read or pass that produced it, with one send. A full
//! socket keeps the rest until there is room.

use std::io;
use std::rc::Rc;

use super::Front;
use super::conn::Conn;
use crate::node::facts::bump;
use crate::resp::Output;

/// Bytes that the connections of a core send in a pass, before those that have much to send wait for the next one; and
/// those of one of them, before others of its like send.
pub const PASS_SEND_BYTES: usize = 1 << 20;
const TURN_SEND_BYTES: usize = 256 << 10;
/// Who has no more than this to send does not wait.
const SHORT_SEND_BYTES: usize = 64 << 10;
/// Memory for output that a connection keeps when it has none.
const SPARE_OUTPUT_BYTES: usize = 256 << 10;

/// How far sending came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    /// The socket is full.
    Full,
    /// Others send first: it goes on in the next pass.
    Later,
}

impl Front {
    /// Sends as long as the socket takes everything and the session goes on with what it had kept back.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub(super) fn send_all(&self, conn: &Rc<Conn>) -> io::Result<()> {
        let (mut sent, mut turn_bytes) = (Sent::All, TURN_SEND_BYTES);
        if conn.unsent_bytes() > 0 {
            sent = self.send(conn, &mut conn.unsent.borrow_mut(), &mut turn_bytes)?;
            if sent == Sent::All {
                conn.session.borrow_mut().resume(&self.backing(conn));
            }
        }
        while sent == Sent::All {
            let mut session = conn.session.borrow_mut();
            if session.output().is_empty() {
                return Ok(());
            }
            sent = self.send(conn, session.output_mut(), &mut turn_bytes)?;
            if sent == Sent::All {
                session.resume(&self.backing(conn));
            } else {
                *conn.unsent.borrow_mut() = session.take_output();
            }
        }
        if sent == Sent::Later && !conn.is_sender.replace(true) {
            self.senders.borrow_mut().push_back(Rc::clone(conn));
        }
        Ok(())
    }

    /// Sends as much as the socket takes, and the connection may send in this turn.
    fn send(&self, conn: &Conn, output: &mut Output, turn_bytes: &mut usize) -> io::Result<Sent> {
        let share = self.share_to_send(output);
        let mut left = if output.len() <= SHORT_SEND_BYTES { share } else { share.min(*turn_bytes) };
        while !output.is_empty() {
            if left == 0 {
                return Ok(Sent::Later);
            }
            let front = output.front();
            match self.try_send(conn, front.get(..left).unwrap_or(front))? {
                0 => return Ok(Sent::Full),
                sent => {
                    left -= sent;
                    *turn_bytes = turn_bytes.saturating_sub(sent);
                    self.sent_bytes.set(self.sent_bytes.get() + sent);
                    output.advance(sent);
                }
            }
        }
        // One huge reply must not pin its memory for as long as the connection lasts.
        output.shrink(SPARE_OUTPUT_BYTES);
        Ok(Sent::All)
    }

    /// What may be sent now: whoever has much to send waits for those of its like that came before it, and for the next
    /// pass when this one has sent enough.
    fn share_to_send(&self, output: &Output) -> usize {
        if output.len() <= SHORT_SEND_BYTES {
            return output.len();
        }
        if !self.is_senders_turn.get() && !self.senders.borrow().is_empty() {
            return 0;
        }
        PASS_SEND_BYTES.saturating_sub(self.sent_bytes.get())
    }

    /// Sends what the socket takes; 0 if it is full.
    fn try_send(&self, conn: &Conn, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match conn.socket.try_send(bytes) {
                Ok(sent) => {
                    let facts = self.core.facts();
                    bump(&facts.output_bytes, sent as u64);
                    bump(&facts.writes, 1);
                    return Ok(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
