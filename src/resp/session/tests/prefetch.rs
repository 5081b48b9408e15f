//! GETs that came together: their rows are fetched together.

use crate::resp::fake::Talk;
use crate::store::PREFETCH_KEYS;

fn gets(from: usize, count: usize) -> Vec<u8> {
    let one = |n: usize| format!("*2\r\n$3\r\n{}\r\n$3\r\nk{n:02}\r\n", ["GET", "get"][n % 2]);
    (from..from + count).map(one).collect::<String>().into_bytes()
}

fn keys(from: usize, count: usize) -> Vec<Vec<u8>> {
    (from..from + count).map(|n| format!("k{n:02}").into_bytes()).collect()
}

#[test]
fn the_rows_of_gets_that_came_together_are_fetched_once_each() {
    let mut talk = Talk::new(1);
    let replies = talk.say_bytes(&gets(0, PREFETCH_KEYS + 5));
    assert_eq!(replies, b"$-1\r\n".repeat(PREFETCH_KEYS + 5));
    assert_eq!(talk.fake.prefetched.take(), [keys(0, PREFETCH_KEYS), keys(PREFETCH_KEYS, 5)]);
    let _ = talk.say_bytes(&gets(0, 1));
    assert!(talk.fake.prefetched.take().is_empty(), "one alone has nobody to wait with");
}

#[test]
fn what_is_no_get_or_not_whole_ends_it() {
    let mut talk = Talk::new(1);
    let mut bytes = gets(0, 3);
    bytes.extend(b"*1\r\n$4\r\nPING\r\n");
    bytes.extend(gets(3, 2));
    let last = gets(5, 1);
    bytes.extend(&last[..last.len() - 6]);
    let _ = talk.say_bytes(&bytes);
    assert_eq!(talk.fake.prefetched.take(), [keys(0, 3), keys(3, 2)]);
    for cut in
        [b"*2\r\n$3\r\nGET\r\n$".as_slice(), b"*2\r\n$3\r\nGET\r\n$-1\r\n", b"*2\r\n$3\r\nGOT\r\n$1\r\nk\r\n"]
    {
        let mut talk = Talk::new(1);
        let _ = talk.say_bytes(&[gets(0, 2), cut.to_vec()].concat());
        assert_eq!(talk.fake.prefetched.take(), [keys(0, 2)]);
    }
}

#[test]
fn behind_a_request_under_way_nothing_is_fetched() {
    let mut talk = Talk::new(1);
    let _ = talk.say_bytes(&[b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n".to_vec(), gets(0, 4)].concat());
    assert!(talk.fake.prefetched.take().is_empty(), "they do not go the short way");
}
