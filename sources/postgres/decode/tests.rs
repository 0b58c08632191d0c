#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn json(decoder: &Decoder, text: &str) -> String {
    let mut out = b"before".to_vec();
    decoder.append(text.as_bytes(), &mut out).unwrap();
    String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
}

fn scalar(type_oid: u32, text: &str) -> String {
    json(&Decoder::of_scalar(type_oid), text)
}

#[test]
fn numbers_keep_every_digit_and_what_is_none_is_a_string() {
    for text in ["0", "-1", "9223372036854775807", "0.10", "-12345678901234567890.12345678901234567890"] {
        assert_eq!(scalar(oid::NUMERIC, text), text);
    }
    for text in ["1e+308", "1.1754944e-38", "-0"] {
        assert_eq!(scalar(oid::FLOAT8, text), text);
    }
    for text in ["NaN", "Infinity", "-Infinity"] {
        assert_eq!(scalar(oid::NUMERIC, text), format!("\"{text}\""));
        assert_eq!(scalar(oid::FLOAT4, text), format!("\"{text}\""));
    }
    assert_eq!(scalar(oid::OID, "4294967295"), "4294967295");
    let long = |digits: usize| "9".repeat(digits);
    assert_eq!(scalar(oid::NUMERIC, &long(1000)), long(1000));
    assert_eq!(scalar(oid::NUMERIC, &long(1001)), format!("\"{}\"", long(1001)));
}

#[test]
fn what_only_begins_like_a_number_is_refused() {
    for text in ["1.", "01", "1e", "1e+", "1 2", "1\n{\"delete\":{}}", "-1-", "0x10", "1.5.5", "1_000"] {
        assert_eq!(
            Decoder::Number.append(text.as_bytes(), &mut Vec::new()),
            Err(DecodeError::Number),
            "{text}"
        );
    }
}

#[test]
fn a_text_of_a_database_that_checks_nothing_must_be_utf8() {
    let latin1 = b"caf\xe9";
    for decoder in [Decoder::Text, Decoder::Json, Decoder::Number, Decoder::array_of(Decoder::Text, b',')] {
        assert_eq!(decoder.append(latin1, &mut Vec::new()), Err(DecodeError::Utf8), "{decoder:?}");
    }
    assert_eq!(json(&Decoder::array_of(Decoder::Text, b','), "{\"\\é\"}"), "[\"é\"]");
}

#[test]
fn a_time_with_anything_else_in_it_is_a_text() {
    assert_eq!(scalar(oid::TIMESTAMP, "2026-01-02 \",\"5"), "\"2026-01-02 \\\",\\\"5\"");
}

#[test]
fn booleans() {
    assert_eq!(scalar(oid::BOOL, "t"), "true");
    assert_eq!(scalar(oid::BOOL, "f"), "false");
    assert_eq!(Decoder::Boolean.append(b"true", &mut Vec::new()), Err(DecodeError::Boolean));
}

#[test]
fn t11_dates_and_times_become_iso_where_iso_can_say_them() {
    assert_eq!(scalar(oid::DATE, "2026-01-02"), r#""2026-01-02""#);
    assert_eq!(scalar(oid::TIMESTAMP, "2026-01-02 03:04:05.123456"), r#""2026-01-02T03:04:05.123456""#);
    assert_eq!(scalar(oid::TIMESTAMP, "0001-01-01 00:00:00"), r#""0001-01-01T00:00:00""#);
    assert_eq!(scalar(oid::TIMESTAMPTZ, "2026-01-02 03:04:05+00"), r#""2026-01-02T03:04:05Z""#);
    for text in ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "10000-01-01 00:00:00+00"] {
        assert_eq!(scalar(oid::TIMESTAMPTZ, text), format!("\"{text}\""));
    }
    for text in ["infinity", "-infinity", "0044-03-15 00:00:00 BC", "294276-12-31 23:59:59.999999"] {
        assert_eq!(scalar(oid::TIMESTAMP, text), format!("\"{text}\""));
    }
    for text in ["infinity", "0044-03-15 BC", "5874897-12-31"] {
        assert_eq!(scalar(oid::DATE, text), format!("\"{text}\""));
    }
    // A zone that a session setting of somebody's brought: not relabelled as UTC.
    assert_eq!(scalar(oid::TIMESTAMPTZ, "2026-01-02 03:04:05+05:30"), r#""2026-01-02 03:04:05+05:30""#);
}

#[test]
fn json_is_itself_on_one_line() {
    assert_eq!(scalar(oid::JSON, "{\"a\":\r\n [1,\n2]}"), "{\"a\":   [1, 2]}");
    assert_eq!(scalar(oid::JSONB, r#"{"a": "\n", "b": 1e400}"#), r#"{"a": "\n", "b": 1e400}"#);
    assert_eq!(Decoder::Json.append(b"", &mut Vec::new()), Err(DecodeError::Json));
}

#[test]
fn anything_else_is_a_string() {
    assert_eq!(scalar(1186, "P1Y2M3DT4H5M6S"), r#""P1Y2M3DT4H5M6S""#);
    assert_eq!(scalar(790, "$1,000.00"), r#""$1,000.00""#);
    assert_eq!(scalar(70_000, r#"(1,"a b",)"#), r#""(1,\"a b\",)""#);
}

#[test]
fn bytea_errors_are_told() {
    for text in ["", "\\", "abc", "\\x0", "\\x0g"] {
        assert_eq!(
            Decoder::Bytea.append(text.as_bytes(), &mut Vec::new()),
            Err(DecodeError::Bytea),
            "{text}"
        );
    }
    assert_eq!(scalar(oid::BYTEA, "\\x"), r#""""#);
}

#[test]
fn arrays() {
    let of = |type_oid| Decoder::array_of(Decoder::of_scalar(type_oid), b',');
    assert_eq!(json(&of(oid::INT4), "{}"), "[]");
    assert_eq!(json(&of(oid::INT4), "{1,NULL,-3}"), "[1,null,-3]");
    assert_eq!(json(&of(oid::INT4), "[0:1]={1,2}"), "[1,2]");
    assert_eq!(json(&of(oid::INT4), "[-1:0][2:3]={{1,2},{3,NULL}}"), "[[1,2],[3,null]]");
    assert_eq!(
        json(&of(oid::TEXT), r#"{"NULL",NULL,"",a,"{b,\"c\\d\""}"#),
        r#"["NULL",null,"","a","{b,\"c\\d\""]"#
    );
    assert_eq!(json(&of(oid::BOOL), "{t,f}"), "[true,false]");
    assert_eq!(json(&of(oid::FLOAT8), "{NaN,1.5}"), r#"["NaN",1.5]"#);
    assert_eq!(json(&of(oid::TIMESTAMP), r#"{"2026-01-02 03:04:05"}"#), r#"["2026-01-02T03:04:05"]"#);
    assert_eq!(json(&of(oid::JSONB), r#"{"{\"a\": [1, 2]}",3}"#), r#"[{"a": [1, 2]},3]"#);
    assert_eq!(json(&of(oid::BYTEA), r#"{"\\xff"}"#), r#"["/w=="]"#);
    let boxes = Decoder::array_of(Decoder::Text, b';');
    assert_eq!(json(&boxes, "{(1,1),(0,0);(2,2),(1,1)}"), r#"["(1,1),(0,0)","(2,2),(1,1)"]"#);
}

#[test]
fn what_is_no_array_is_refused() {
    let array = Decoder::array_of(Decoder::Text, b',');
    for text in [
        "", "a", "{", "}", "{}}", "{a", "{a,}", "{,a}", "{a}b", "{\"a}", "{\"a\\", "{a{b}}", "{}{}", "[0:1]",
        "{a}{b}", "{\"a\"b}", "{{}", ",",
    ] {
        assert_eq!(array.append(text.as_bytes(), &mut Vec::new()), Err(DecodeError::Array), "{text}");
    }
}

/// An array as array_out writes it: quotes around what could be misread.
fn array_out(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "NULL".to_owned(),
        serde_json::Value::String(text) => {
            let odd = |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_whitespace();
            if text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(odd) {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            } else {
                text.clone()
            }
        }
        serde_json::Value::Array(values) => {
            format!("{{{}}}", values.iter().map(array_out).collect::<Vec<_>>().join(","))
        }
        _ => unreachable!("texts only"),
    }
}

fn array_of_texts() -> impl Strategy<Value = serde_json::Value> {
    let element = prop_oneof![
        Just(serde_json::Value::Null),
        prop_oneof!["[a-c,{}\"\\\\ \n]{0,6}", "NULL", ".{0,9}"].prop_map(serde_json::Value::String),
    ];
    let arrays =
        |inner: BoxedStrategy<_>| prop::collection::vec(inner, 1..4).prop_map(serde_json::Value::Array);
    let flat = arrays(element.boxed());
    let nested = prop_oneof![flat.clone(), arrays(flat.boxed()), Just(serde_json::Value::Array(Vec::new()))];
    (nested, any::<bool>()).prop_map(|(array, _)| array)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn an_array_comes_back(array in array_of_texts()) {
        let decoder = Decoder::array_of(Decoder::Text, b',');
        let back: serde_json::Value = serde_json::from_str(&json(&decoder, &array_out(&array))).unwrap();
        prop_assert_eq!(back, array);
    }

    #[test]
    fn no_text_makes_an_array_panic_or_break_the_json(text in "[\\[\\]{},\"\\\\a=:1 ]{0,20}") {
        let mut out = Vec::new();
        if Decoder::array_of(Decoder::Text, b',').append(text.as_bytes(), &mut out).is_ok() {
            let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&out);
            prop_assert!(parsed.is_ok(), "{}", String::from_utf8_lossy(&out));
        }
    }

    #[test]
    fn bytea_of_any_length_becomes_its_base64(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..50), prop::collection::vec(any::<u8>(), 700..1600)]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        prop_assert_eq!(scalar(oid::BYTEA, &format!("\\x{hex}")), format!("\"{}\"", STANDARD.encode(&bytes)));
    }

    #[test]
    fn no_text_makes_a_decoder_panic(text: Vec<u8>) {
        for type_oid in [16, 17, 20, 25, 114, 701, 1082, 1114, 1184, 1700] {
            let _any = Decoder::of_scalar(type_oid).append(&text, &mut Vec::new());
        }
    }
}
