use proptest::prelude::*;

use super::*;
use crate::resp::encode_command;

const LIMITS: Limits = Limits::new(512 * 1024 * 1024, 1024 * 1024 * 1024);

/// Requests as owned arguments, and the error they end with.
type Outcome = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

/// Parses a stream that arrives in pieces with ends at `cuts`, dropping requests as they complete.
/// Checks on the way that a request is called complete no later than `bytes_needed_min` allows.
fn parse_pieces(stream: &[u8], cuts: &[usize], limits: &Limits) -> Outcome {
    let (mut parser, mut arguments) = (Parser::new(), Arguments::new());
    let (mut requests, mut start, mut quiet_until) = (Vec::new(), 0, 0);
    let mut ends = cuts.iter().map(|&it| it.min(stream.len())).collect::<Vec<_>>();
    ends.push(stream.len());
    ends.sort_unstable();
    for end in ends {
        loop {
            let input = &stream[start..end];
            let step = parser.parse(input, limits, &mut arguments);
            if end < quiet_until {
                assert!(matches!(step, Ok(Step::Incomplete { .. })), "{step:?}");
            }
            match step {
                Ok(Step::Request { consumed }) => {
                    requests.push(arguments.iter(input).map(<[u8]>::to_vec).collect());
                    start += consumed;
                }
                Ok(Step::Empty { consumed }) => start += consumed,
                Ok(Step::Incomplete { bytes_needed_min }) => {
                    assert!(bytes_needed_min > 0);
                    quiet_until = end + bytes_needed_min;
                    break;
                }
                Err(error) => return (requests, Some(error)),
            }
            assert!(!parser.is_within_request());
        }
    }
    (requests, None)
}

fn parse_all(stream: &[u8], limits: &Limits) -> Outcome {
    parse_pieces(stream, &[], limits)
}

fn error_of(stream: &[u8], limits: &Limits) -> String {
    let (requests, error) = parse_all(stream, limits);
    assert_eq!(requests, Vec::<Vec<Vec<u8>>>::new());
    error.map_or_else(|| "none".to_owned(), |it| it.to_string())
}

fn encode(arguments: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(&mut out, &arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    out
}

#[test]
fn requests_in_one_buffer_are_found_one_after_another() {
    let stream = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\nPING\r\n*0\r\n*1\r\n$4\r\nQUIT\r\n";
    let words = |words: &[&str]| words.iter().map(|it| it.as_bytes().to_vec()).collect::<Vec<_>>();
    let expected = vec![words(&["GET", "key"]), words(&["PING"]), words(&["QUIT"])];
    assert_eq!(parse_all(stream, &LIMITS), (expected, None));
}

#[test]
fn requests_without_arguments_are_empty() {
    for stream in ["*0\r\n", "*-1\r\n", "*-9223372036854775808\r\n", "\r\n", "\n", "  \t\r\n"] {
        let step = Parser::new().parse(stream.as_bytes(), &LIMITS, &mut Arguments::new());
        assert_eq!(step, Ok(Step::Empty { consumed: stream.len() }), "{stream:?}");
    }
}

#[test]
fn refusals_are_worded_as_in_redis() {
    for (stream, text) in [
        ("*x\r\n", "Protocol error: invalid multibulk length"),
        ("*1\rx", "Protocol error: invalid multibulk length"),
        ("*1048577\r\n", "Protocol error: invalid multibulk length"),
        ("*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        ("*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
        ("*1\r\nfoo", "Protocol error: expected '$', got 'f'"),
        ("*1\r\n\0", "Protocol error: expected '$', got '\\x00'"),
        ("*1\r\n\r\n", "Protocol error: expected '$', got '\\x0d'"),
        ("GET \"key\r\n", "Protocol error: unbalanced quotes in request"),
    ] {
        assert_eq!(error_of(stream.as_bytes(), &LIMITS), text, "{stream:?}");
    }
    assert_eq!(
        error_of(b"*1\r\n$1\r\nab\r\n", &LIMITS),
        "Protocol error: expected a line end after a bulk of the announced length"
    );
}

#[test]
fn lines_without_an_end_are_refused_at_64_kib() {
    let long = [b'A'; 65_536];
    for (start, text) in [
        (&b"\0"[..], "Protocol error: too big inline request"),
        (b"*\0", "Protocol error: too big mbulk count string"),
        (b"*1\r\n$\0", "Protocol error: too big bulk count string"),
    ] {
        let stream = [start, &long].concat();
        assert_eq!(error_of(&stream, &LIMITS), text);
        assert_eq!(parse_all(&stream[..65_536], &LIMITS), (Vec::new(), None));
    }
    let longest = [&long[..], b"\n"].concat();
    assert_eq!(parse_all(&longest, &LIMITS), (vec![vec![long.to_vec()]], None));
}

#[test]
fn hostile_numbers_are_refused_as_soon_as_their_line_ends() {
    for number in
        ["+1", " 1", "1 ", "01", "00", "-0", "", "99999999999999999999", "0x1", "1e3", "1,0"]
    {
        assert_eq!(
            error_of(format!("*{number}\r\n").as_bytes(), &LIMITS),
            "Protocol error: invalid multibulk length",
            "{number:?}"
        );
        assert_eq!(
            error_of(format!("*1\r\n${number}\r\n").as_bytes(), &LIMITS),
            "Protocol error: invalid bulk length",
            "{number:?}"
        );
    }
}

#[test]
fn limits_are_the_last_values_allowed() {
    let limits = Limits { multibulk_count_max: 2, ..Limits::new(4, 31) };
    assert_eq!(parse_all(&encode(&["GET", "keys"]), &limits).1, None);
    assert_eq!(encode(&["0123", "0123", "01"]).len(), 32);
    for (arguments, error) in [
        (&["a", "b", "c"][..], ProtocolError::InvalidMultibulkLength),
        (&["GET", "key_5"], ProtocolError::InvalidBulkLength),
    ] {
        assert_eq!(parse_all(&encode(arguments), &limits).1, Some(error));
    }
    let limits = Limits::new(4, 31);
    assert_eq!(parse_all(&encode(&["0123", "0123", "0"]), &limits).1, None);
    let too_big = parse_all(&encode(&["0123", "0123", "01"]), &limits).1;
    assert_eq!(too_big, Some(ProtocolError::TooBigRequest));
}

#[test]
fn strangers_may_send_ten_arguments_of_16_kib() {
    let limits = LIMITS.unauthenticated();
    assert_eq!(parse_all(&encode(&vec![[b'x'; 16_384]; 10]), &limits).1, None);
    for (stream, text) in [
        ("*11\r\n", "Protocol error: unauthenticated multibulk length"),
        ("*1\r\n$16385\r\n", "Protocol error: unauthenticated bulk length"),
        ("*1048577\r\n", "Protocol error: invalid multibulk length"),
        ("*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
    ] {
        assert_eq!(error_of(stream.as_bytes(), &limits), text, "{stream:?}");
    }
}

#[test]
fn lengths_that_no_offset_reaches_are_refused_under_any_limits() {
    let limits = Limits::new(usize::MAX, usize::MAX);
    for length in ["2147483647", "9223372036854775807"] {
        let text = error_of(format!("*1\r\n${length}\r\n").as_bytes(), &limits);
        assert_eq!(text, "Protocol error: too big request");
    }
}

#[test]
fn an_idle_parser_holds_nothing() {
    let (mut parser, mut arguments) = (Parser::new(), Arguments::new());
    let stream = encode(&["GET", "key"]);
    for end in [0, 7, stream.len(), 0] {
        let _ = parser.parse(&stream[..end], &LIMITS, &mut arguments).unwrap();
        assert_eq!(parser.is_within_request(), end == 7);
    }
}

#[test]
fn announced_numbers_allocate_nothing() {
    let mut parser = Parser::new();
    let input = b"*1048576\r\n$536870912\r\nx";
    let step = parser.parse(input, &LIMITS, &mut Arguments::new()).unwrap();
    assert_eq!(step, Step::Incomplete { bytes_needed_min: 536_870_913 });
    assert_eq!(parser.partial.unwrap().arguments.memory_bytes(), 0);
}

/// Bytes that were read are overwritten, so reading them again would end in an error.
#[test]
fn what_was_read_is_not_read_again() {
    let value = vec![b'v'; 100_000];
    let stream = encode(&[b"SET", &b"key"[..], &value, b"PX", b"1000"]);
    let mut seen = stream.clone();
    let (mut parser, mut arguments) = (Parser::new(), Arguments::new());
    for end in 1..stream.len() {
        let step = parser.parse(&seen[..end], &LIMITS, &mut arguments).unwrap();
        assert!(matches!(step, Step::Incomplete { .. }));
        let read = parser.partial.as_ref().unwrap().cursor.position;
        seen[read.saturating_sub(5)..read].fill(b'?');
    }
    let step = parser.parse(&seen, &LIMITS, &mut arguments).unwrap();
    assert_eq!(step, Step::Request { consumed: stream.len() });
    let lens: Vec<usize> = arguments.iter(&seen).map(<[u8]>::len).collect();
    assert_eq!(lens, [3, 3, 100_000, 2, 4]);
}

/// Between two calls the cursor moves on, or the parser has answered without looking.
#[test]
fn a_large_bulk_in_small_pieces_is_looked_at_twice() {
    let stream = encode(&[b"SET", &b"key"[..], &vec![b'v'; 16 << 20]]);
    let (mut parser, mut arguments) = (Parser::new(), Arguments::new());
    let mut input_lens_min = Vec::new();
    for end in (1024..stream.len()).step_by(1024) {
        let _ = parser.parse(&stream[..end], &LIMITS, &mut arguments).unwrap();
        input_lens_min.push(parser.partial.as_ref().unwrap().input_len_min);
    }
    input_lens_min.dedup();
    assert_eq!(input_lens_min, [stream.len()]);
    let step = parser.parse(&stream, &LIMITS, &mut arguments).unwrap();
    assert_eq!(step, Step::Request { consumed: stream.len() });
}

#[test]
fn a_line_in_small_pieces_is_searched_once() {
    for start in [&b"*1\r\n$"[..], b"*", b"ECHO "] {
        let stream = [start, &[b'1'; 1000]].concat();
        let mut parser = Parser::new();
        for end in start.len()..stream.len() {
            let _ = parser.parse(&stream[..end], &LIMITS, &mut Arguments::new()).unwrap();
            assert_eq!(parser.partial.as_ref().unwrap().cursor.line_end_min, end);
        }
    }
}

#[test]
fn a_million_arguments_trickle_in() {
    let stream = encode(&vec!["k"; 1_000_000]);
    let (mut parser, mut arguments) = (Parser::new(), Arguments::new());
    for end in (100..stream.len()).step_by(100) {
        let _ = parser.parse(&stream[..end], &LIMITS, &mut arguments).unwrap();
        let cursor = parser.partial.as_ref().unwrap().cursor;
        assert!(end - cursor.position < 7, "no finished argument is left unread");
    }
    let step = parser.parse(&stream, &LIMITS, &mut arguments).unwrap();
    assert_eq!(step, Step::Request { consumed: stream.len() });
    assert_eq!(arguments.len(), 1_000_000);
}

/// Requests, some of them inline or empty.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let argument = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12),
        prop::collection::vec(any::<u8>(), 95..105),
        prop::collection::vec(any::<u8>(), 995..1005),
    ];
    let request = prop_oneof![
        4 => prop::collection::vec(argument, 1..12).prop_map(|it| encode(&it)),
        1 => prop::sample::select(vec![
            b"*0\r\n".to_vec(), b"*-1\r\n".to_vec(), b"\r\n".to_vec(), b"PING\n".to_vec(),
            b"set \"a\\x00\" 'b c' d\r\n".to_vec(),
        ]),
    ];
    prop::collection::vec(request, 0..5).prop_map(|it| it.concat())
}

/// Nearly RESP.
fn hostile_streams() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "*",
        "$",
        "\r\n",
        "\r",
        "\n",
        "1",
        "2",
        "9",
        "0",
        "-1",
        "+",
        " ",
        "\"",
        "'",
        "\\x4",
        "1000000",
        "99999999999999999999",
        "GET",
        "*1\r\n$1\r\n",
        "*2\r\n$3\r\nGET\r\n",
        "\0",
    ]);
    prop::collection::vec(token, 0..40).prop_map(|it| it.concat().into_bytes())
}

proptest! {
    #[test]
    fn what_a_client_encodes_is_what_the_parser_finds(
        requests in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..15), 1..5)
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|it| encode(it)).collect();
        prop_assert_eq!(parse_all(&stream, &LIMITS), (requests, None));
    }

    #[test]
    fn every_split_gives_the_same_requests(
        stream in streams(), cuts in prop::collection::vec(0usize..4000, 0..20)
    ) {
        let whole = parse_all(&stream, &LIMITS);
        prop_assert_eq!(&whole.1, &None);
        prop_assert_eq!(&parse_pieces(&stream, &cuts, &LIMITS), &whole);
        let every_byte: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&parse_pieces(&stream, &every_byte, &LIMITS), &whole);
    }

    #[test]
    fn every_prefix_of_a_request_is_incomplete(
        arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..12)
    ) {
        let request = encode(&arguments);
        for end in 0..request.len() {
            let step = Parser::new().parse(&request[..end], &LIMITS, &mut Arguments::new());
            prop_assert!(matches!(step, Ok(Step::Incomplete { .. })), "{:?}", step);
        }
    }

    #[test]
    fn every_split_of_hostile_bytes_gives_the_same_error(
        stream in hostile_streams(), cuts in prop::collection::vec(0usize..200, 0..20)
    ) {
        let limits = Limits { inline_bytes_max: 24, ..Limits::new(2000, 5000) };
        let whole = parse_all(&stream, &limits);
        prop_assert_eq!(&parse_pieces(&stream, &cuts, &limits), &whole);
        let every_byte: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&parse_pieces(&stream, &every_byte, &limits), &whole);
    }

    #[test]
    fn memory_follows_the_bytes_that_arrived(
        stream in prop_oneof![hostile_streams(), prop::collection::vec(any::<u8>(), 0..300)]
    ) {
        let (mut parser, mut arguments) = (Parser::new(), Arguments::new());
        if let Ok(Step::Incomplete { .. }) = parser.parse(&stream, &LIMITS, &mut arguments)
            && let Some(partial) = parser.partial
        {
            arguments = partial.arguments;
        }
        prop_assert!(arguments.memory_bytes() <= 64 + 16 * stream.len());
    }
}
