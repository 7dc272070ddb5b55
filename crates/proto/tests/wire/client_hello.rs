//! ClientHellos as they are written, however they are cut, and what is refused.

use enclave_bridge_proto::{CLIENT_HELLO_MAX_BYTES, ClientHelloError, ClientHelloProgress, ClientHelloReader};
use proptest::prelude::*;

/// A length in so many bytes, then the content.
fn vector(length_bytes: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - length_bytes..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, content)].concat()
}

fn server_name(name: &str) -> Vec<u8> {
    extension(0, &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat()))
}

/// The handshake message of a ClientHello with these extensions.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 1, 0x13, 2]),
        &vector(1, &[0]),
        &vector(2, &extensions.concat()),
    ]
    .concat();
    [&[1][..], &vector(3, &body)].concat()
}

/// The message in records of at most so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat()).collect()
}

fn named(name: &str) -> Vec<u8> {
    hello(&[extension(43, &[2, 3, 4]), server_name(name), extension(51, &[1; 1200])])
}

/// What a reader says in the end, and after how many bytes, when they come in pieces of this size.
fn read(stream: &[u8], piece: usize) -> (Result<Option<String>, ClientHelloError>, usize) {
    let mut reader = ClientHelloReader::new();
    let mut read = 0;
    for part in stream.chunks(piece) {
        read += part.len();
        match reader.push(part) {
            Ok(ClientHelloProgress::More) => {}
            Ok(ClientHelloProgress::Whole(name)) => return (Ok(name.map(|name| name.as_str().to_owned())), read),
            Err(error) => return (Err(error), read),
        }
    }
    panic!("not decided within {read} bytes");
}

#[test]
fn the_name_is_found_however_records_and_pieces_cut_it() {
    let message = named("api.example.org");
    for record in [1, 2, 3, 4, 5, 100, message.len()] {
        let stream = records(&message, record);
        for piece in [1, 2, 7, stream.len()] {
            let (name, read) = read(&stream, piece);
            assert_eq!(name, Ok(Some("api.example.org".to_owned())), "records of {record}, pieces of {piece}");
            assert!(read <= stream.len());
        }
    }
}

#[test]
fn what_comes_in_later_records_is_the_streams() {
    let stream = [&records(&named("a.example"), 16_384)[..], &[23, 3, 3, 0, 5], b"early"].concat();
    assert_eq!(read(&stream, stream.len()).0, Ok(Some("a.example".to_owned())));
}

#[test]
fn hellos_without_a_name() {
    assert_eq!(read(&records(&hello(&[extension(43, &[2, 3, 4])]), 16_384), 64).0, Ok(None));
    // No extensions at all: TLS 1.2 allows it.
    let body = [&[3, 1][..], &[7; 32], &vector(1, &[]), &vector(2, &[0, 47]), &vector(1, &[0])].concat();
    assert_eq!(read(&records(&[&[1][..], &vector(3, &body)].concat(), 16_384), 64).0, Ok(None));
}

#[test]
fn letter_case_is_the_same_name_and_a_dot_is_not() {
    let mut reader = ClientHelloReader::new();
    let progress = reader.push(&records(&named("Api.Example.org"), 16_384)).unwrap();
    let ClientHelloProgress::Whole(Some(name)) = progress else { panic!("{progress:?}") };
    assert!(name.is("api.example.org") && !name.is("api.example.org.") && !name.is("example.org"));
    assert!(!format!("{name:?} {reader:?}").contains("xample"));
}

#[test]
fn refused_as_soon_as_it_can_be_known() {
    for (stream, after) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1),
        (b"SSH-2.0-OpenSSH\r\n", 1),
        (&[22, 2, 0, 0, 5], 2),
        (&[22, 3, 4, 0, 5], 3),
        // SSL 2.0.
        (&[0x80, 0x2e, 1, 3, 1], 1),
        // An alert, a ServerHello.
        (&[21, 3, 3, 0, 2, 1, 0], 1),
        (&[22, 3, 3, 0, 4, 2, 0, 0, 0], 6),
    ] {
        assert_eq!(read(stream, 1), (Err(ClientHelloError::NotTls), after), "{stream:?}");
    }
    assert_eq!(read(&[22, 3, 1, 0, 0], 1).0, Err(ClientHelloError::Malformed("an empty record")));
    assert_eq!(read(&[22, 3, 1, 0x40, 1], 1).0, Err(ClientHelloError::Malformed("a record too long")));
    // The length says so before the bytes come.
    assert_eq!(read(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 1], 1), (Err(ClientHelloError::TooLong), 9));
}

#[test]
fn what_two_readers_could_see_differently_is_refused() {
    let two_names = {
        let name = |name: &str| [&[0][..], &vector(2, name.as_bytes())].concat();
        extension(0, &vector(2, &[name("a.example"), name("b.example")].concat()))
    };
    let mut trailing = hello(&[server_name("a.example")]);
    trailing.push(0);
    let mut short = named("a.example");
    short[2] += 1;
    for (message, reason) in [
        (hello(&[two_names]), "more than one server name"),
        (hello(&[server_name("a.example"), server_name("b.example")]), "an extension comes twice"),
        (hello(&[extension(9, &[]), extension(9, &[])]), "an extension comes twice"),
        (hello(&[extension(0, &vector(2, &[1, 0, 1, b'a']))]), "a server name of an unknown kind"),
        (hello(&[extension(0, &[])]), "a field is longer than what holds it"),
        (hello(&[server_name("")]), "the server name is no host name"),
        (hello(&[server_name("a\0b")]), "the server name is no host name"),
        (hello(&[server_name("bücher.example")]), "the server name is no host name"),
        (hello(&[server_name("a.example"), vec![0]]), "a field is longer than what holds it"),
        (trailing, "its record does not end with it"),
    ] {
        assert_eq!(read(&records(&message, 16_384), 1).0, Err(ClientHelloError::Malformed(reason)));
    }
    // A message that says it is longer than it is goes on into what follows.
    let mut reader = ClientHelloReader::new();
    assert_eq!(reader.push(&records(&short, 16_384)), Ok(ClientHelloProgress::More));
}

#[test]
fn the_cap_is_of_bytes_on_the_wire() {
    let filled = |bytes: usize| hello(&[extension(21, &vec![0; bytes]), server_name("a.example")]);
    let room = CLIENT_HELLO_MAX_BYTES - 5 - filled(0).len();
    assert_eq!(read(&records(&filled(room), 16_384), 1024).0, Ok(Some("a.example".to_owned())));
    // The same in records of a byte is six times as long.
    assert_eq!(read(&records(&filled(room), 1), 1024).0, Err(ClientHelloError::TooLong));
    assert_eq!(read(&records(&filled(CLIENT_HELLO_MAX_BYTES), 16_384), 1024).0, Err(ClientHelloError::TooLong));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_the_cap(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        piece in 1usize..300,
    ) {
        let mut reader = ClientHelloReader::new();
        let _ended = bytes.chunks(piece).find(|part| !matches!(reader.push(part), Ok(ClientHelloProgress::More)));
    }

    #[test]
    fn a_hello_with_one_wrong_byte_names_no_other_server_by_accident_of_framing(
        at in 0usize..1400,
        flip in 1u8..,
        record in 1usize..2000,
        piece in 1usize..200,
    ) {
        let mut message = named("api.example.org");
        let place = at % message.len();
        message[place] ^= flip;
        let stream = records(&message, record);
        let outcome = |piece: usize| {
            let mut reader = ClientHelloReader::new();
            let decided = stream.chunks(piece).map(|part| reader.push(part)).find(|step| *step != Ok(ClientHelloProgress::More));
            decided.unwrap_or(Ok(ClientHelloProgress::More))
        };
        // How the bytes arrive makes no difference.
        prop_assert_eq!(outcome(piece), outcome(stream.len()));
    }

    #[test]
    fn any_name_in_any_cut(name in "[a-z0-9-]{1,60}(\\.[a-z0-9-]{1,60}){0,3}", record in 1usize..3000, piece in 1usize..500) {
        let stream = records(&named(&name), record);
        prop_assert_eq!(read(&stream, piece).0, Ok(Some(name)));
    }
}
