//! A framed stream as the enclave's end has it, from the protocol's text: records of a length, two bytes little-endian, and
//! that many bytes; `00 00` ends the direction, `FF FF` resets.

use crate::tunnels::Leg;
use crate::wire::Wire;
use std::io::{self, ErrorKind, Read, Write};

/// Lengths of the records that are written, by turns: the smallest, the largest, and some that fit no buffer.
const LENGTHS: [usize; 7] = [32766, 1, 32766, 4093, 30_000, 2, 32766];

/// The longest record.
const MOST: usize = 32766;

/// Reads and writes records on a stream between an enclave and its host.
#[derive(Debug)]
pub struct Framed {
    wire: Wire,
    /// Of the record that is being read.
    left: usize,
    ended: bool,
    turn: usize,
}

impl Framed {
    /// Before the first record of either direction.
    #[must_use]
    pub fn new(wire: Wire) -> Framed {
        Framed { wire, left: 0, ended: false, turn: 0 }
    }

    /// The bytes as they are.
    #[must_use]
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The next header, which must be whole.
    ///
    /// # Errors
    /// The end of the socket is one, of kind `UnexpectedEof`.
    pub fn read_header(&mut self) -> io::Result<u16> {
        let mut header = [0; 2];
        self.wire.read_exact(&mut header)?;
        Ok(u16::from_le_bytes(header))
    }
}

impl Read for Framed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            match usize::from(self.read_header()?) {
                0 => {
                    self.ended = true;
                    return Ok(0);
                }
                0xFFFF => return Err(ErrorKind::ConnectionReset.into()),
                length if length > MOST => panic!("the bridge sent a record of {length} bytes"),
                length => self.left = length,
            }
        }
        let most = buffer.len().min(self.left);
        match self.wire.read(&mut buffer[..most])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                self.left -= n;
                Ok(n)
            }
        }
    }
}

impl Write for Framed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = LENGTHS[self.turn % LENGTHS.len()].min(bytes.len());
        if length == 0 {
            return Ok(0);
        }
        self.turn += 1;
        self.wire.write_all(&u16::try_from(length).expect("a record's length").to_le_bytes())?;
        self.wire.write_all(&bytes[..length])?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Leg for Framed {
    /// A record; the socket stays open both ways.
    fn end_writing(&self) {
        let _ = (&self.wire).write_all(&[0, 0]);
    }
}
