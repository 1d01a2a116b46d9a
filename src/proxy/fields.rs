//! The fields of a request while it is under way: it may have to be sent again, or to be logged.

use std::cell::{Cell, OnceCell};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields that are given away, and can be had again.
///
/// hyper wants a map of its own, and reads the answer's fields into it. What stays is a text: it costs less than a
/// second map, and most requests are sent once.
#[derive(Default)]
pub(super) struct Fields {
    map: Cell<Option<HeaderMap>>,
    text: OnceCell<Vec<u8>>,
}

/// Between a name and its value. Neither it nor a line feed is part of a name, nor a line feed of a value
/// (RFC 9110 sections 5.1 and 5.5).
const PLAIN: u8 = b':';
/// The same before a value that no cache of HTTP/2 is to keep (RFC 7541 section 7.1.3).
const SENSITIVE: u8 = b';';

impl Fields {
    /// These; once.
    pub(super) fn set(&self, map: HeaderMap) {
        self.map.set(Some(map));
    }

    /// All of them, however often.
    pub(super) fn give(&self) -> HeaderMap {
        match self.map.take() {
            Some(map) => {
                self.text.get_or_init(|| text(&map));
                map
            }
            None => map(self.text.get().expect("they were set")),
        }
    }

    /// Puts them back where they were taken from, if they have been.
    pub(super) fn restore(&self, headers: &mut HeaderMap) {
        if let Some(text) = self.text.get() {
            *headers = map(text);
        } else if let Some(map) = self.map.take() {
            *headers = map;
        }
    }
}

/// How long most texts are at the most, in bytes: longer ones leave copies of their beginnings where they grew.
const USUAL: usize = 512;

fn text(map: &HeaderMap) -> Vec<u8> {
    let mut text = Vec::with_capacity(USUAL);
    for (name, value) in map {
        text.extend_from_slice(name.as_str().as_bytes());
        text.push(if value.is_sensitive() { SENSITIVE } else { PLAIN });
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text
}

fn map(text: &[u8]) -> HeaderMap {
    text.split(|byte| *byte == b'\n').filter_map(field).collect()
}

/// `None` for what follows the last one, which is nothing.
fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let end = line.iter().position(|byte| matches!(*byte, PLAIN | SENSITIVE))?;
    let name = HeaderName::from_lowercase(&line[..end]).expect("it was a name");
    let mut value = HeaderValue::from_bytes(&line[end + 1..]).expect("it was a value");
    value.set_sensitive(line[end] == SENSITIVE);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

    use super::Fields;

    /// Over HTTP/2 names may have quotation marks too, by the library that reads them.
    const ODD_NAME: &str = "!\"#$%&'*+-.^_`|~09az";
    const LONG_NAME: &str = "x-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789";

    fn any_map() -> impl Strategy<Value = HeaderMap> {
        let name = prop::sample::select(vec!["accept", "cookie", "x-one", "x-two", ODD_NAME, LONG_NAME]);
        let byte = any::<u8>().prop_filter("of a value", |byte| *byte == b'\t' || *byte >= b' ' && *byte != 127);
        let field =
            (name, prop::collection::vec(byte, 0..20), any::<bool>()).prop_map(|(name, value, is_sensitive)| {
                let mut value = HeaderValue::from_bytes(&value).expect("a value");
                value.set_sensitive(is_sensitive);
                (HeaderName::from_static(name), value)
            });
        prop::collection::vec(field, 0..10).prop_map(HeaderMap::from_iter)
    }

    /// All that is to stay the same, in its order.
    fn told(map: &HeaderMap) -> Vec<(HeaderName, Vec<u8>, bool)> {
        map.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec(), value.is_sensitive())).collect()
    }

    proptest! {
        #[test]
        fn fields_are_the_same_however_often_they_are_given_and_once_they_are_back(map in any_map()) {
            let fields = Fields::default();
            fields.set(map.clone());
            for _ in 0..3 {
                prop_assert_eq!(told(&fields.give()), told(&map));
            }
            let mut headers = HeaderMap::new();
            fields.restore(&mut headers);
            prop_assert_eq!(told(&headers), told(&map));
        }
    }

    #[test]
    fn fields_that_were_not_given_away_are_put_back_and_others_left_alone() {
        let one = || HeaderMap::from_iter([(HeaderName::from_static("x-one"), HeaderValue::from_static("1"))]);
        let fields = Fields::default();
        let mut headers = one();
        fields.restore(&mut headers);
        assert_eq!(headers, one());
        fields.set(std::mem::take(&mut headers));
        fields.restore(&mut headers);
        assert_eq!(headers, one());
    }
}
