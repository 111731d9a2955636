//! Keys: that what differs has other ones, however its parts are cut.

use forebay::key::{ChunkKey, Namespace};

/// A namespace from bytes: its texts are the pieces between 0xFF bytes, its numbers the first ones.
fn namespace(bytes: &[u8]) -> Namespace {
    let mut pieces =
        bytes.split(|&byte| byte == 0xFF).map(|piece| String::from_utf8_lossy(piece).into_owned());
    let mut next = || pieces.next().unwrap_or_default();
    let numbers: Vec<u32> = (0..4).map(|at| bytes.get(at).copied().unwrap_or(0).into()).collect();
    Namespace {
        model: next(),
        revision: next(),
        kv_dtype: next(),
        layout: next(),
        salt: next(),
        tp: (numbers[0], numbers[1]),
        pp: (numbers[2], numbers[3]),
    }
}

fn keys(namespace: &Namespace, tokens: &[u32], size: usize) -> Vec<ChunkKey> {
    namespace.chunk_keys(tokens, size, &[]).expect("a chunk size above zero")
}

/// Two namespaces and two prompts: equal keys only where both are equal.
pub(crate) fn namespaces(bytes: &[u8]) {
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let [first, second] = [namespace(one), namespace(other)];
    assert_eq!(first == second, first.digest() == second.digest(), "{first:?} {second:?}");
    let tokens = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).collect()
    };
    let [a, b] = [tokens(one), tokens(other)];
    for (size, chunks) in [(1, a.len()), (4, a.len() / 4)] {
        let [x, y] = [keys(&first, &a, size), keys(&second, &b, size)];
        assert_eq!(x.len(), chunks, "whole chunks have keys");
        for (number, (x, y)) in x.iter().zip(&y).enumerate() {
            let front = (number + 1) * size;
            assert_eq!(x == y, first == second && a[..front] == b[..front], "chunk {number} of {size}");
        }
        if let (Some(x), Some(y)) = (x.first(), y.first()) {
            assert!(first == second || x.namespace_id() != y.namespace_id());
        }
    }
}

pub(crate) fn sound_namespaces() -> Vec<Vec<u8>> {
    let text = "model\u{0}a";
    let one =
        [text.as_bytes(), &[0xFF], b"main", &[0xFF], b"float16", &[0xFF], b"32 layers", &[0xFF], b"salt"]
            .concat();
    vec![[one.clone(), one.clone()].concat(), [one, vec![7; 36]].concat()]
}
