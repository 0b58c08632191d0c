//! PostGIS's text form (EWKB in hexadecimal digits) → a GeoJSON geometry.
//!
//! ```text
//!  01 | 01 00 00 20 | E6 10 00 00 | x: 8 bytes | y: 8 bytes    →   {"type":"Point","coordinates":[x,y]}
//!  │    type, flags   SRID, if flagged
//!  └ little-endian
//! ```
//! - Z is the third coordinate; M is left out, as ST_AsGeoJSON leaves it out.
//! - Without a SRID or with 4326 it is the geometry itself. Another one's coordinates are no degrees:
//!   `{"srid":3857,"geometry":{…}}`, which no search cluster takes for a place on the earth.
//! - An empty geometry has no coordinates: `[]`.
//! - What GeoJSON cannot say (curves, surfaces of triangles, coordinates that are no numbers) stays the
//!   text. So does what is not EWKB at all, since a value must not halt what it can go along with.

use std::io::Write;

use super::{DecodeError, Decoder, Space};

const Z: u32 = 0x8000_0000;
const M: u32 = 0x4000_0000;
const SRID: u32 = 0x2000_0000;

/// Degrees on WGS 84: what GeoJSON is.
const DEGREES: u32 = 4326;

/// Collections inside of collections; PostGIS itself goes to 200, people to two.
const DEPTH_MAX: usize = 16;

/// Why there is no GeoJSON.
enum Fault {
    /// It stays the text.
    Unsayable,
    TooLarge,
}

/// Appends the geometry `text`; ends when `out` outgrows its room.
pub(super) fn append(text: &[u8], out: &mut Vec<u8>, space: Space) -> Result<(), DecodeError> {
    let from = out.len();
    let mut ewkb = Ewkb { digits: text, space };
    let appended = ewkb.outermost(out);
    match appended {
        Ok(()) if ewkb.digits.is_empty() => Ok(()),
        Err(Fault::TooLarge) => Err(DecodeError::TooLarge),
        _ => {
            out.truncate(from);
            Decoder::Text.append_checked(text, out, space)
        }
    }
}

/// Reads one element of a list.
type One<'a, Of> = dyn FnMut(&mut Of, &mut Vec<u8>) -> Result<(), Fault> + 'a;

/// What is still to be read.
struct Ewkb<'a> {
    digits: &'a [u8],
    space: Space,
}

/// What stands before each geometry.
#[derive(Clone, Copy)]
struct Head {
    little: bool,
    kind: u32,
    flags: u32,
    srid: u32,
}

impl Ewkb<'_> {
    fn outermost(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let head = self.head()?;
        if head.srid == 0 || head.srid == DEGREES {
            return self.object(head, out, 0);
        }
        out.extend_from_slice(format!("{{\"srid\":{},\"geometry\":", head.srid).as_bytes());
        self.object(head, out, 0)?;
        out.push(b'}');
        Ok(())
    }

    /// A GeoJSON object.
    fn object(&mut self, head: Head, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        const NAMES: [&str; 7] = [
            "Point",
            "LineString",
            "Polygon",
            "MultiPoint",
            "MultiLineString",
            "MultiPolygon",
            "GeometryCollection",
        ];
        let place = usize::try_from(head.kind).ok().and_then(|kind| kind.checked_sub(1));
        let name = place.and_then(|place| NAMES.get(place)).ok_or(Fault::Unsayable)?;
        let inside = if head.kind == 7 { "geometries" } else { "coordinates" };
        out.extend_from_slice(format!("{{\"type\":\"{name}\",\"{inside}\":").as_bytes());
        match head.kind {
            7 => {
                if depth >= DEPTH_MAX {
                    return Err(Fault::Unsayable);
                }
                self.list(head, out, &mut |ewkb, out| {
                    let inner = ewkb.head()?;
                    ewkb.object(inner, out, depth + 1)
                })?;
            }
            _ => self.coordinates(head, out)?,
        }
        out.push(b'}');
        Ok(())
    }

    fn coordinates(&mut self, head: Head, out: &mut Vec<u8>) -> Result<(), Fault> {
        match head.kind {
            1 => self.position(head, out),
            2 => self.list(head, out, &mut |ewkb, out| ewkb.position(head, out)),
            3 => self.list(head, out, &mut |ewkb, out| {
                ewkb.list(head, out, &mut |ewkb, out| ewkb.position(head, out))
            }),
            // The parts of a multi-geometry are whole geometries of the simple kind.
            4..=6 => self.list(head, out, &mut |ewkb, out| {
                let inner = ewkb.head()?;
                match inner.kind == head.kind - 3 {
                    true => ewkb.coordinates(inner, out),
                    false => Err(Fault::Unsayable),
                }
            }),
            _ => Err(Fault::Unsayable),
        }
    }

    /// A count, and so many of what `one` reads. Nothing is set aside for a count: it may be a lie.
    fn list(&mut self, head: Head, out: &mut Vec<u8>, one: &mut One<'_, Self>) -> Result<(), Fault> {
        let count = self.number(head.little)?;
        out.push(b'[');
        for number in 0..count {
            if number > 0 {
                out.push(b',');
            }
            one(self, out)?;
            self.space.check(out).map_err(|_| Fault::TooLarge)?;
        }
        out.push(b']');
        Ok(())
    }

    /// `[x,y]` or `[x,y,z]`; an empty point's coordinates are all NaN.
    fn position(&mut self, head: Head, out: &mut Vec<u8>) -> Result<(), Fault> {
        let x = self.double(head.little)?;
        let y = self.double(head.little)?;
        let z = if head.flags & Z != 0 { Some(self.double(head.little)?) } else { None };
        if head.flags & M != 0 {
            self.double(head.little)?;
        }
        if head.kind == 1 && x.is_nan() && y.is_nan() {
            out.extend_from_slice(b"[]");
            return Ok(());
        }
        out.push(b'[');
        append_double(x, out)?;
        out.push(b',');
        append_double(y, out)?;
        if let Some(z) = z {
            out.push(b',');
            append_double(z, out)?;
        }
        out.push(b']');
        Ok(())
    }

    fn head(&mut self) -> Result<Head, Fault> {
        let little = match self.bytes::<1>()? {
            [0] => false,
            [1] => true,
            _ => return Err(Fault::Unsayable),
        };
        let type_word = self.number(little)?;
        let flags = type_word & (Z | M | SRID);
        let srid = if flags & SRID != 0 { self.number(little)? } else { 0 };
        Ok(Head { little, kind: type_word & !flags, flags, srid })
    }

    fn number(&mut self, little: bool) -> Result<u32, Fault> {
        let bytes = self.bytes()?;
        Ok(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn double(&mut self, little: bool) -> Result<f64, Fault> {
        let bytes = self.bytes()?;
        Ok(if little { f64::from_le_bytes(bytes) } else { f64::from_be_bytes(bytes) })
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (digits, rest) = self.digits.split_at_checked(2 * N).ok_or(Fault::Unsayable)?;
        let mut bytes = [0; N];
        for (pair, byte) in digits.as_chunks::<2>().0.iter().zip(&mut bytes) {
            let [high, low] = pair.map(super::nibble);
            *byte = high.map_err(|_| Fault::Unsayable)? << 4 | low.map_err(|_| Fault::Unsayable)?;
        }
        self.digits = rest;
        Ok(bytes)
    }
}

/// The shortest text that is exactly this number.
fn append_double(value: f64, out: &mut Vec<u8>) -> Result<(), Fault> {
    const PLAIN: std::ops::Range<f64> = 1e-6..1e16;
    if !value.is_finite() {
        return Err(Fault::Unsayable);
    }
    let is_plain = value == 0.0 || PLAIN.contains(&value.abs());
    let written = if is_plain { write!(out, "{value}") } else { write!(out, "{value:e}") };
    written.map_err(|_| Fault::Unsayable)
}
