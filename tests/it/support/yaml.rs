//! Reading YAML with several documents, as `kubectl` does.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Reads all documents of a text. Scalars that look like numbers or booleans are such.
pub fn documents(text: &str) -> Vec<Value> {
    let events = Parser::new_from_str(text).map(|event| event.unwrap_or_else(|error| panic!("{error}")).0);
    let mut events = events.collect::<Vec<_>>().into_iter();
    let mut all = Vec::new();
    while let Some(event) = events.next() {
        if matches!(event, Event::DocumentStart(..)) {
            let first = events.next().unwrap();
            all.push(value(first, &mut events));
        }
    }
    all
}

fn value<'t>(event: Event<'t>, events: &mut impl Iterator<Item = Event<'t>>) -> Value {
    match event {
        Event::Scalar(text, ScalarStyle::Plain, ..) => match &*text {
            "true" => true.into(),
            "false" => false.into(),
            number => number.parse::<i64>().map_or_else(|_| number.into(), Value::from),
        },
        Event::Scalar(text, ..) => text.to_string().into(),
        Event::SequenceStart(..) => {
            let mut all = Vec::new();
            loop {
                match events.next().unwrap() {
                    Event::SequenceEnd => return all.into(),
                    event => all.push(value(event, events)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut all = Map::new();
            loop {
                match events.next().unwrap() {
                    Event::MappingEnd => return all.into(),
                    key => {
                        let key = value(key, events).as_str().unwrap().to_owned();
                        let next = events.next().unwrap();
                        let value = value(next, events);
                        assert!(all.insert(key.clone(), value).is_none(), "{key} is there twice");
                    }
                }
            }
        }
        event => panic!("{event:?}"),
    }
}
