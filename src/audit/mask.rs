//! Fields named by `audit.mask` are replaced while a record is written, and listed in it.
//!
//! What no path leads into is written as if there were no mask: masking costs only where something is masked.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io;

use serde::Serialize;
use serde::ser::{Error as _, Impossible, SerializeMap, SerializeStruct, Serializer};

const MASKED: &str = "[masked]";

/// The fields of one object that something is masked in.
#[derive(Debug, Default)]
pub(super) struct Mask(Vec<(String, Hidden)>);

#[derive(Debug)]
enum Hidden {
    Whole(Place),
    Inside(Mask),
}

#[derive(Debug)]
struct Place {
    /// A JSON pointer.
    pointer: String,
    /// Among the configured paths.
    number: usize,
}

/// What was masked; written as JSON pointers in the order of the configuration.
#[derive(Debug, Default)]
pub(super) struct Found<'m>(RefCell<Vec<&'m Place>>);

/// A value on its way past a mask.
#[derive(Clone, Copy)]
pub(super) struct Masked<'a, 'm, T: ?Sized> {
    value: &'a T,
    mask: &'m Mask,
    found: &'a Found<'m>,
}

impl Mask {
    /// Of dotted paths.
    pub fn new(paths: &[String]) -> Self {
        let mut mask = Self::default();
        for (number, path) in paths.iter().enumerate() {
            let pointer = String::new();
            mask.add(Place { pointer, number }, path);
        }
        mask
    }

    fn add(&mut self, mut place: Place, path: &str) {
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        place.pointer.push('/');
        place.pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
        let at = self.0.iter().position(|(known, _)| known == name);
        match (rest, at.and_then(|at| self.0.get_mut(at))) {
            (_, Some((_, Hidden::Whole(_)))) => {}
            (Some(rest), Some((_, Hidden::Inside(inside)))) => inside.add(place, rest),
            (None, Some((_, hidden))) => *hidden = Hidden::Whole(place),
            (None, None) => self.0.push((name.to_owned(), Hidden::Whole(place))),
            (Some(rest), None) => {
                let mut inside = Self::default();
                inside.add(place, rest);
                self.0.push((name.to_owned(), Hidden::Inside(inside)));
            }
        }
    }

    /// A serializer that writes through the mask.
    pub fn over<'a, 'm, S>(&'m self, to: S, found: &'a Found<'m>) -> Masking<'a, 'm, S> {
        Masking { to, mask: self, found }
    }

    fn find(&self, name: &str) -> Option<&Hidden> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, hidden)| hidden)
    }
}

impl Serialize for Found<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut found = self.0.borrow_mut();
        found.sort_by_key(|place| place.number);
        to.collect_seq(found.iter().map(|place| &place.pointer))
    }
}

impl<'a, 'm, T: ?Sized> Masked<'a, 'm, T> {
    pub fn new(value: &'a T, mask: &'m Mask, found: &'a Found<'m>) -> Self {
        Self { value, mask, found }
    }
}

impl<T: Serialize + ?Sized> Serialize for Masked<'_, '_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Masking {
            to,
            mask: self.mask,
            found: self.found,
        })
    }
}

/// A serializer, or the fields of an object, behind a mask.
pub(super) struct Masking<'a, 'm, S> {
    to: S,
    mask: &'m Mask,
    found: &'a Found<'m>,
}

impl<S> Masking<'_, '_, S> {
    /// What is behind the mask.
    pub fn bare(&mut self) -> &mut S {
        &mut self.to
    }
}

/// The entries of a map behind a mask.
pub(super) struct Entries<'a, 'm, S> {
    map: Masking<'a, 'm, S>,
    /// Of the entry whose value comes next.
    hidden: Option<&'m Hidden>,
    /// Of the entry that came last.
    name: String,
}

/// What a key says, whatever it is made of.
struct Shown<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

macro_rules! as_it_is {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.to.$method(value)
        })*
    };
}

impl<'a, 'm, S: Serializer> Serializer for Masking<'a, 'm, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = S::SerializeSeq;
    type SerializeTuple = S::SerializeTuple;
    type SerializeTupleStruct = S::SerializeTupleStruct;
    type SerializeTupleVariant = Impossible<S::Ok, S::Error>;
    type SerializeMap = Entries<'a, 'm, S::SerializeMap>;
    type SerializeStruct = Masking<'a, 'm, S::SerializeStruct>;
    type SerializeStructVariant = Impossible<S::Ok, S::Error>;

    as_it_is!(
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
        Err(no_place(variant))
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
        Err(no_place(variant))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let Self { to, mask, found } = self;
        let to = to.serialize_map(length)?;
        Ok(Entries {
            map: Masking { to, mask, found },
            hidden: None,
            name: String::new(),
        })
    }

    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        let Self { to, mask, found } = self;
        let to = to.serialize_struct(name, length)?;
        Ok(Masking { to, mask, found })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Err(no_place(variant))
    }
}

impl<S: SerializeStruct> SerializeStruct for Masking<'_, '_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), S::Error> {
        match self.mask.find(name) {
            None => self.to.serialize_field(name, value),
            Some(Hidden::Inside(mask)) => self.to.serialize_field(name, &Masked::new(value, mask, self.found)),
            Some(Hidden::Whole(_)) if is_null(value) => self.to.serialize_field(name, value),
            Some(Hidden::Whole(place)) => {
                self.found.0.borrow_mut().push(place);
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

impl<S: SerializeMap> SerializeMap for Entries<'_, '_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.name.clear();
        write!(self.name, "{}", Shown(key)).map_err(|fmt::Error| S::Error::custom("a key that is no text"))?;
        self.hidden = self.map.mask.find(&self.name);
        self.map.to.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let map = &mut self.map;
        match self.hidden.take() {
            None => map.to.serialize_value(value),
            Some(Hidden::Inside(mask)) => map.to.serialize_value(&Masked::new(value, mask, map.found)),
            Some(Hidden::Whole(_)) if is_null(value) => map.to.serialize_value(value),
            Some(Hidden::Whole(place)) => {
                map.found.0.borrow_mut().push(place);
                map.to.serialize_value(MASKED)
            }
        }
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.map.to.end()
    }
}

/// An object that a variant makes has no fields here: it is written nowhere rather than past the mask.
fn no_place<E: serde::ser::Error>(variant: &str) -> E {
    E::custom(format!("`{variant}` cannot be masked"))
}

/// Nothing is nothing to hide. Looks at the first byte only.
fn is_null<T: Serialize + ?Sized>(value: &T) -> bool {
    let mut first = FirstByte(None);
    let _cut_short = serde_json::to_writer(&mut first, value).is_err();
    first.0 == Some(b'n')
}

struct FirstByte(Option<u8>);

impl io::Write for FirstByte {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.or(bytes.first().copied());
        Err(io::Error::other("one byte is enough"))
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
        let (mask, found) = (Mask::new(paths), Found::default());
        let text = serde_json::to_string(&Masked::new(value, &mask, &found)).unwrap();
        let found = serde_json::to_value(&found).unwrap();
        (serde_json::from_str(&text).unwrap(), serde_json::from_value(found).unwrap())
    }

    /// By hand, on the whole tree.
    fn expected(value: &mut Value, path: &str, found: &mut Vec<String>) {
        let (mut place, mut pointer) = (value, String::new());
        for name in path.split('.') {
            pointer.push('/');
            pointer.push_str(name);
            let Some(inner) = place.as_object_mut().and_then(|object| object.get_mut(name)) else {
                return;
            };
            place = inner;
        }
        if !place.is_null() {
            *place = json!(MASKED);
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
        fn what_is_written_is_the_tree_with_the_masked_places_replaced(
            value in tree(),
            path in "[a-c](\\.[a-c]){0,3}",
        ) {
            let (mut wanted, mut found) = (value.clone(), Vec::new());
            expected(&mut wanted, &path, &mut found);
            prop_assert_eq!(written(&value, &[path]), (wanted, found));
        }
    }

    #[test]
    fn the_shorter_of_two_paths_hides_it_all() {
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
