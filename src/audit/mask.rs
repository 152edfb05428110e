//! Masks the fields that `audit.mask` names while a record is written, and lists them in the record.
//!
//! The mask is a serde `Serializer` around the JSON writer. Struct fields and map entries on a masked path are compared
//! with the mask; every other value passes to the JSON writer untouched. In place of a masked value the JSON writer
//! gets `[masked]`, so the value itself never reaches the buffer. Most of this file only forwards serde's methods.
//!
//! A record whose masked fields are all inside of the context, as with the default mask, is written past this
//! serializer up to its context (`line`).
//!
//! Shorter ways were considered and not taken. A `serde_json::Value` with replacement by JSON pointer would allocate
//! the whole context once more, and keep the order of its keys only while a dependency turns on serde_json's
//! `preserve_order`. Editing the finished line would scan all of it. Masking when the record is made would give the
//! policy engine a mask to apply on the request's thread.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io;

use serde::Serialize;
use serde::ser::{Error as _, Impossible, SerializeMap, SerializeStruct, Serializer};

const MASKED: &str = "[masked]";

/// The masked fields of one object, by name.
#[derive(Debug, Default)]
pub(super) struct Mask(Vec<(String, FieldMask)>);

#[derive(Debug)]
enum FieldMask {
    /// The field as a whole.
    Whole(MaskPath),
    /// Fields of the object in it.
    Inside(Mask),
}

/// One path of `audit.mask`.
#[derive(Debug)]
struct MaskPath {
    /// As a JSON pointer (RFC 6901).
    pointer: String,
    /// Position in the configuration.
    position: usize,
}

/// Other fields are masked, too.
#[derive(Debug)]
pub(super) struct MasksMore;

/// The paths that were masked in one record; serializes to their JSON pointers in the order of the configuration.
#[derive(Debug, Default)]
pub(super) struct MaskedPaths<'m>(RefCell<Vec<&'m MaskPath>>);

/// A value that is written through a mask.
#[derive(Clone, Copy)]
pub(super) struct Masked<'a, 'm, T: ?Sized> {
    value: &'a T,
    mask: &'m Mask,
    found: &'a MaskedPaths<'m>,
}

impl Mask {
    /// A mask of dotted paths. The shorter of two paths hides everything that the longer one names.
    pub fn new(paths: &[String]) -> Self {
        let mut mask = Self::default();
        for (position, path) in paths.iter().enumerate() {
            let pointer = String::new();
            mask.add(MaskPath { pointer, position }, path);
        }
        mask
    }

    /// Adds the rest of a dotted path, below the pointer that `path` has so far.
    fn add(&mut self, mut path: MaskPath, dotted: &str) {
        let (name, rest) = dotted
            .split_once('.')
            .map_or((dotted, None), |(name, rest)| (name, Some(rest)));
        path.pointer.push('/');
        path.pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
        let known = self.0.iter_mut().find(|(known, _)| known == name).map(|(_, field)| field);
        match (rest, known) {
            (_, Some(FieldMask::Whole(_))) => {}
            (Some(rest), Some(FieldMask::Inside(inside))) => inside.add(path, rest),
            (None, Some(field)) => *field = FieldMask::Whole(path),
            (None, None) => self.0.push((name.to_owned(), FieldMask::Whole(path))),
            (Some(rest), None) => {
                let mut inside = Self::default();
                inside.add(path, rest);
                self.0.push((name.to_owned(), FieldMask::Inside(inside)));
            }
        }
    }

    /// A serializer that writes to `to` through the mask.
    pub fn over<'a, 'm, S>(&'m self, to: S, found: &'a MaskedPaths<'m>) -> MaskSerializer<'a, 'm, S> {
        MaskSerializer { to, mask: self, found }
    }

    /// The mask inside of the field `name`, if nothing else is masked; `Err` if another field is, or this one as a
    /// whole.
    pub fn inside_only(&self, name: &str) -> Result<Option<&Self>, MasksMore> {
        match self.0.as_slice() {
            [] => Ok(None),
            [(known, FieldMask::Inside(mask))] if known == name => Ok(Some(mask)),
            _ => Err(MasksMore),
        }
    }

    /// True if the field is masked, as a whole or in part.
    pub fn touches(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&FieldMask> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, field)| field)
    }
}

impl Serialize for MaskedPaths<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut paths = self.0.borrow_mut();
        paths.sort_by_key(|path| path.position);
        to.collect_seq(paths.iter().map(|path| &path.pointer))
    }
}

impl<'a, 'm, T: ?Sized> Masked<'a, 'm, T> {
    pub fn new(value: &'a T, mask: &'m Mask, found: &'a MaskedPaths<'m>) -> Self {
        Self { value, mask, found }
    }
}

impl<T: Serialize + ?Sized> Serialize for Masked<'_, '_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(self.mask.over(to, self.found))
    }
}

/// A serializer, or the fields of an object, behind a mask.
pub(super) struct MaskSerializer<'a, 'm, S> {
    to: S,
    mask: &'m Mask,
    found: &'a MaskedPaths<'m>,
}

impl<S> MaskSerializer<'_, '_, S> {
    /// The serializer without the mask.
    pub fn unmasked(&mut self) -> &mut S {
        &mut self.to
    }
}

/// The entries of a map behind a mask.
pub(super) struct MaskMap<'a, 'm, S> {
    map: MaskSerializer<'a, 'm, S>,
    /// The mask of the entry whose value comes next.
    field: Option<&'m FieldMask>,
    /// The key of the entry that came last.
    name: String,
}

/// Displays a map key of any type as text.
struct KeyText<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> fmt::Display for KeyText<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

macro_rules! forward {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.to.$method(value)
        })*
    };
}

impl<'a, 'm, S: Serializer> Serializer for MaskSerializer<'a, 'm, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = S::SerializeSeq;
    type SerializeTuple = S::SerializeTuple;
    type SerializeTupleStruct = S::SerializeTupleStruct;
    type SerializeTupleVariant = Impossible<S::Ok, S::Error>;
    type SerializeMap = MaskMap<'a, 'm, S::SerializeMap>;
    type SerializeStruct = MaskSerializer<'a, 'm, S::SerializeStruct>;
    type SerializeStructVariant = Impossible<S::Ok, S::Error>;

    forward!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_f32: f32,
        serialize_f64: f64, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
        serialize_unit_struct: &'static str
    );

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.to.serialize_some(&Masked::new(value, self.mask, self.found))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit()
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.to
            .serialize_newtype_struct(name, &Masked::new(value, self.mask, self.found))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: &T,
    ) -> Result<S::Ok, S::Error> {
        Err(unmaskable_variant(variant))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<S::SerializeSeq, S::Error> {
        self.to.serialize_seq(length)
    }

    fn serialize_tuple(self, length: usize) -> Result<S::SerializeTuple, S::Error> {
        self.to.serialize_tuple(length)
    }

    fn serialize_tuple_struct(self, name: &'static str, length: usize) -> Result<S::SerializeTupleStruct, S::Error> {
        self.to.serialize_tuple_struct(name, length)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Err(unmaskable_variant(variant))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let Self { to, mask, found } = self;
        let to = to.serialize_map(length)?;
        Ok(MaskMap {
            map: MaskSerializer { to, mask, found },
            field: None,
            name: String::new(),
        })
    }

    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        let Self { to, mask, found } = self;
        let to = to.serialize_struct(name, length)?;
        Ok(MaskSerializer { to, mask, found })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Err(unmaskable_variant(variant))
    }
}

impl<S: SerializeStruct> SerializeStruct for MaskSerializer<'_, '_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), S::Error> {
        match self.mask.find(name) {
            None => self.to.serialize_field(name, value),
            Some(FieldMask::Inside(mask)) => self.to.serialize_field(name, &Masked::new(value, mask, self.found)),
            Some(FieldMask::Whole(_)) if is_null(value) => self.to.serialize_field(name, value),
            Some(FieldMask::Whole(path)) => {
                self.found.0.borrow_mut().push(path);
                self.to.serialize_field(name, MASKED)
            }
        }
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), S::Error> {
        self.to.skip_field(name)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.to.end()
    }
}

impl<S: SerializeMap> SerializeMap for MaskMap<'_, '_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.name.clear();
        write!(self.name, "{}", KeyText(key)).map_err(|fmt::Error| S::Error::custom("a map key is not text"))?;
        self.field = self.map.mask.find(&self.name);
        self.map.to.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let map = &mut self.map;
        match self.field.take() {
            None => map.to.serialize_value(value),
            Some(FieldMask::Inside(mask)) => map.to.serialize_value(&Masked::new(value, mask, map.found)),
            Some(FieldMask::Whole(_)) if is_null(value) => map.to.serialize_value(value),
            Some(FieldMask::Whole(path)) => {
                map.found.0.borrow_mut().push(path);
                map.to.serialize_value(MASKED)
            }
        }
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.map.to.end()
    }
}

/// No record holds an object made by an enum variant. The record is lost, with an error in the log, rather than written
/// past the mask.
fn unmaskable_variant<E: serde::ser::Error>(variant: &str) -> E {
    E::custom(format!("`{variant}` cannot be masked"))
}

/// True for a value that JSON writes as `null`, which is not masked: there is no content to hide. Formats one byte
/// only.
fn is_null<T: Serialize + ?Sized>(value: &T) -> bool {
    let mut first = FirstByte(None);
    let _cut_short = serde_json::to_writer(&mut first, value).is_err();
    first.0 == Some(b'n')
}

struct FirstByte(Option<u8>);

impl io::Write for FirstByte {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.or(bytes.first().copied());
        Err(io::Error::other("only the first byte is wanted"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn written(value: &Value, paths: &[String]) -> (Value, Vec<String>) {
        let mask = Mask::new(paths);
        let found = MaskedPaths::default();
        let text = serde_json::to_string(&Masked::new(value, &mask, &found)).unwrap();
        let found = serde_json::to_value(&found).unwrap();
        (serde_json::from_str(&text).unwrap(), serde_json::from_value(found).unwrap())
    }

    /// The expected result, computed on the whole tree.
    fn expected(value: &mut Value, path: &str, found: &mut Vec<String>) {
        let mut field = value;
        let mut pointer = String::new();
        for name in path.split('.') {
            pointer.push('/');
            pointer.push_str(name);
            let Some(inner) = field.as_object_mut().and_then(|object| object.get_mut(name)) else {
                return;
            };
            field = inner;
        }
        if !field.is_null() {
            *field = json!(MASKED);
            found.push(pointer);
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            let object = prop::collection::vec(("[a-c]", inner.clone()), 0..4);
            prop_oneof![
                object.prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
            ]
        })
    }

    proptest! {
        #[test]
        fn written_line_equals_the_tree_with_masked_fields_replaced(
            value in tree(),
            path in "[a-c](\\.[a-c]){0,3}",
        ) {
            let mut wanted = value.clone();
            let mut found = Vec::new();
            expected(&mut wanted, &path, &mut found);
            prop_assert_eq!(written(&value, &[path]), (wanted, found));
        }
    }

    #[test]
    fn shorter_of_two_paths_masks_the_whole_field() {
        let value = json!({"a": {"b": 1, "c": 2}, "x/y~": 3});
        for paths in [["a.b", "a"], ["a", "a.b"]] {
            let (line, found) = written(&value, &paths.map(str::to_owned));
            assert_eq!((line, found), (json!({"a": MASKED, "x/y~": 3}), vec!["/a".to_owned()]));
        }
        let (line, found) = written(&value, &["a.b".to_owned(), "a.c".to_owned(), "x/y~".to_owned()]);
        assert_eq!(line, json!({"a": {"b": MASKED, "c": MASKED}, "x/y~": MASKED}));
        assert_eq!(found, ["/a/b", "/a/c", "/x~1y~0"]);
    }
}
