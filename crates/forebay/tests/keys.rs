//! Keys: the same inputs give the same keys everywhere, and different inputs give different ones.
//!
//! The golden vectors in `python/tests/key_vectors.json` were written by `reference_keys.py` next to them, a second
//! implementation on Python's `hashlib` that shares no code with this crate. If one of these tests fails after a
//! change of `key.rs`, every chunk on every disk has lost its name.

use forebay::{ChunkKey, ErrorKind, Namespace};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

const VECTORS: &str = include_str!("../../../python/tests/key_vectors.json");

fn vectors(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    let list = all[kind].as_array().unwrap().clone();
    assert!(!list.is_empty(), "there are vectors of {kind}");
    list
}

fn unhex(text: &Value) -> Vec<u8> {
    let digits = text.as_str().unwrap().as_bytes();
    digits
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn unhex_all(list: &Value) -> Vec<Vec<u8>> {
    list.as_array().unwrap().iter().map(unhex).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn namespace(vector: &Value) -> Namespace {
    let fields = &vector["namespace"];
    let text = |name: &str| fields.get(name).map_or("", |text| text.as_str().unwrap()).to_owned();
    let rank = |name: &str, default: u64| u32::try_from(fields.get(name).map_or(default, number)).unwrap();
    Namespace {
        model: text("model"),
        revision: text("revision"),
        kv_dtype: text("kv_dtype"),
        layout: text("layout"),
        tp: (rank("tp_rank", 0), rank("tp_size", 1)),
        pp: (rank("pp_rank", 0), rank("pp_size", 1)),
        salt: text("salt"),
    }
}

fn bytes(keys: &[ChunkKey]) -> Vec<Vec<u8>> {
    keys.iter().map(|key| key.as_bytes().to_vec()).collect()
}

#[test]
fn a_namespace_has_the_recorded_digest() {
    for vector in vectors("namespaces") {
        assert_eq!(namespace(&vector).digest().to_vec(), unhex(&vector["digest"]), "{vector}");
    }
}

#[test]
fn tokens_have_the_recorded_keys() {
    for vector in vectors("tokens") {
        let tokens: Vec<u32> = vector["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| u32::try_from(number(id)).unwrap())
            .collect();
        let extra = unhex_all(&vector["extra"]);
        let extra: Vec<&[u8]> = extra.iter().map(Vec::as_slice).collect();
        let size = usize::try_from(number(&vector["chunk_size"])).unwrap();
        let keys = namespace(&vector).chunk_keys(&tokens, size, &extra).unwrap();
        assert_eq!(bytes(&keys), unhex_all(&vector["keys"]), "{vector}");
    }
}

#[test]
fn block_hashes_have_the_recorded_keys() {
    for vector in vectors("blocks") {
        let blocks = unhex_all(&vector["blocks"]);
        let per_chunk = usize::try_from(number(&vector["blocks_per_chunk"])).unwrap();
        let keys = namespace(&vector).chunk_keys_from_blocks(&blocks, per_chunk).unwrap();
        assert_eq!(bytes(&keys), unhex_all(&vector["keys"]), "{vector}");
    }
}

#[test]
fn a_chunk_of_nothing_is_an_error_that_names_the_setting() {
    let space = Namespace::of_model("a-model");
    let error = space.chunk_keys(&[1, 2], 0, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    assert!(error.to_string().contains("chunk_size is 0"), "{error}");
    let error = space.chunk_keys_from_blocks(&[b"x"], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    assert!(error.to_string().contains("blocks_per_chunk is 0"), "{error}");
}

#[test]
fn a_key_is_32_bytes_and_nothing_else() {
    let key = ChunkKey::new([0xa5; 32]);
    assert_eq!(ChunkKey::from_slice(key.as_bytes()).unwrap(), key);
    assert_eq!(key.to_string(), "a5".repeat(32));
    for length in [0, 8, 31, 33, 64] {
        let error = ChunkKey::from_slice(&vec![0xa5; length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().contains(&length.to_string()), "{error}");
    }
}

/// Few and short values, so that neighbours differ by little.
fn name() -> impl Strategy<Value = String> {
    "[ab0]{0,3}"
}

fn any_namespace() -> impl Strategy<Value = Namespace> {
    let rank = || (0_u32..3, 0_u32..3);
    ((name(), name(), name(), name()), rank(), rank(), name()).prop_map(
        |((model, revision, kv_dtype, layout), tp, pp, salt)| Namespace {
            model,
            revision,
            kv_dtype,
            layout,
            tp,
            pp,
            salt,
        },
    )
}

fn extras() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..4), 0..3)
}

fn keys(space: &Namespace, tokens: &[u32], size: usize, extra: &[Vec<u8>]) -> Vec<ChunkKey> {
    let extra: Vec<&[u8]> = extra.iter().map(Vec::as_slice).collect();
    space.chunk_keys(tokens, size, &extra).unwrap()
}

/// No key of one list stands anywhere in the other.
fn are_strangers(one: &[ChunkKey], other: &[ChunkKey]) -> bool {
    one.iter().all(|key| !other.contains(key))
}

/// The namespace with one field changed.
fn with_changed(space: &Namespace, field: usize) -> Namespace {
    let mut other = space.clone();
    match field {
        0 => other.model.push('x'),
        1 => other.revision.push('x'),
        2 => other.kv_dtype.push('x'),
        3 => other.layout.push('x'),
        4 => other.tp.0 += 1,
        5 => other.tp.1 += 1,
        6 => other.pp.0 += 1,
        7 => other.pp.1 += 1,
        8 => other.salt.push('x'),
        _ => unreachable!("a namespace has nine fields"),
    }
    other
}

#[test]
fn every_field_is_listed_for_hashing() {
    let space = Namespace::of_model("a-model");
    let fields = space.fields();
    for at in 0..fields.len() {
        let other = with_changed(&space, at).fields();
        let changed: Vec<usize> = (0..fields.len()).filter(|&i| other[i].1 != fields[i].1).collect();
        assert_eq!(changed, [at], "changing field {at} changes what is hashed for it and for no other");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changing_any_field_of_the_namespace_changes_every_key(
        space in any_namespace(), field in 0_usize..9, tokens in vec(0_u32..4, 4..20), extra in extras(),
    ) {
        let other = with_changed(&space, field);
        prop_assert_ne!(space.digest(), other.digest());
        let (ours, theirs) = (keys(&space, &tokens, 4, &extra), keys(&other, &tokens, 4, &extra));
        prop_assert!(are_strangers(&ours, &theirs));
        prop_assert_ne!(ours[0].namespace_id(), theirs[0].namespace_id());
        let blocks = [[1_u8; 32], [2; 32]];
        let ours = space.chunk_keys_from_blocks(&blocks, 1).unwrap();
        prop_assert!(are_strangers(&ours, &other.chunk_keys_from_blocks(&blocks, 1).unwrap()));
    }

    #[test]
    fn moving_bytes_from_one_field_of_the_namespace_to_its_neighbour_changes_every_key(
        text in vec("[ab0]{1,3}", 5), cut in 1_usize..3, at in 0_usize..4, tokens in vec(0_u32..4, 4..12),
    ) {
        let space = |text: &[String]| Namespace {
            model: text[0].clone(),
            revision: text[1].clone(),
            kv_dtype: text[2].clone(),
            layout: text[3].clone(),
            salt: text[4].clone(),
            ..Namespace::of_model("")
        };
        let mut moved = text.clone();
        let keep = moved[at].len().saturating_sub(cut);
        let tail = moved[at].split_off(keep);
        moved[at + 1].insert_str(0, &tail);
        prop_assert_eq!(moved.concat(), text.concat(), "the same bytes, cut elsewhere");
        prop_assert!(are_strangers(&keys(&space(&text), &tokens, 4, &[]), &keys(&space(&moved), &tokens, 4, &[])));
    }

    #[test]
    fn changing_a_token_changes_its_chunks_key_and_every_later_one_and_no_earlier_one(
        space in any_namespace(), tokens in vec(0_u32..4, 1..40), size in 1_usize..6, at in any::<prop::sample::Index>(),
        bit in 0_u32..32,
    ) {
        let at = at.index(tokens.len());
        let mut changed = tokens.clone();
        changed[at] ^= 1 << bit;
        let (ours, theirs) = (keys(&space, &tokens, size, &[]), keys(&space, &changed, size, &[]));
        let same = (at / size).min(ours.len());
        prop_assert_eq!(&ours[..same], &theirs[..same]);
        prop_assert!(are_strangers(&ours[same..], &theirs[same..]));
    }

    #[test]
    fn changing_the_extra_keys_changes_every_key(
        space in any_namespace(), tokens in vec(0_u32..4, 4..20), one in extras(), other in extras(),
    ) {
        prop_assume!(one != other);
        prop_assert!(are_strangers(&keys(&space, &tokens, 4, &one), &keys(&space, &tokens, 4, &other)));
    }

    #[test]
    fn cutting_the_same_extra_bytes_elsewhere_changes_every_key(
        all in vec(any::<u8>(), 1..8), one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(),
    ) {
        let (one, other) = (one.index(all.len() + 1), other.index(all.len() + 1));
        prop_assume!(one != other);
        let space = Namespace::of_model("a-model");
        let cut = |at: usize| keys(&space, &[1, 2, 3], 1, &[all[..at].to_vec(), all[at..].to_vec()]);
        prop_assert!(are_strangers(&cut(one), &cut(other)));
        prop_assert!(are_strangers(&cut(one), &keys(&space, &[1, 2, 3], 1, std::slice::from_ref(&all))));
    }

    #[test]
    fn the_keys_of_a_prompt_begin_with_the_keys_of_its_beginning(
        space in any_namespace(), tokens in vec(any::<u32>(), 0..60), size in 1_usize..8,
        until in any::<prop::sample::Index>(), extra in extras(),
    ) {
        let until = until.index(tokens.len() + 1);
        let whole = keys(&space, &tokens, size, &extra);
        let part = keys(&space, &tokens[..until], size, &extra);
        prop_assert_eq!(whole.len(), tokens.len() / size, "a trailing part of a chunk has no key");
        prop_assert_eq!(part.len(), until / size);
        prop_assert_eq!(&whole[..part.len()], &part[..]);
    }

    #[test]
    fn equal_chunks_at_different_places_of_a_prompt_have_different_keys(
        space in any_namespace(), token in any::<u32>(), chunks in 2_usize..20, size in 1_usize..5,
    ) {
        let all = keys(&space, &vec![token; chunks * size], size, &[]);
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        prop_assert_eq!(distinct.len(), chunks);
    }

    #[test]
    fn the_same_tokens_in_chunks_of_another_size_have_other_keys(
        space in any_namespace(), tokens in vec(0_u32..4, 12..30), one in 1_usize..6, other in 1_usize..6,
    ) {
        prop_assume!(one != other);
        prop_assert!(are_strangers(&keys(&space, &tokens, one, &[]), &keys(&space, &tokens, other, &[])));
    }

    #[test]
    fn every_key_begins_with_the_id_of_its_namespace(
        space in any_namespace(), tokens in vec(any::<u32>(), 4..20), blocks in vec(vec(any::<u8>(), 0..33), 1..6),
    ) {
        let id = &space.digest()[..8];
        for key in keys(&space, &tokens, 4, &[]).iter().chain(&space.chunk_keys_from_blocks(&blocks, 1).unwrap()) {
            prop_assert_eq!(&key.as_bytes()[..8], id);
            prop_assert_eq!(&key.namespace_id()[..], id);
        }
    }

    #[test]
    fn cutting_the_same_bytes_of_block_hashes_elsewhere_changes_the_key(
        all in vec(any::<u8>(), 1..40), one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(),
    ) {
        let (one, other) = (one.index(all.len() + 1), other.index(all.len() + 1));
        prop_assume!(one != other);
        let space = Namespace::of_model("a-model");
        let cut = |at: usize| space.chunk_keys_from_blocks(&[&all[..at], &all[at..]], 2).unwrap();
        prop_assert!(are_strangers(&cut(one), &cut(other)));
        prop_assert!(are_strangers(&cut(one), &space.chunk_keys_from_blocks(&[&all], 1).unwrap()));
    }

    #[test]
    fn block_hashes_and_tokens_never_share_a_key(space in any_namespace(), tokens in vec(any::<u32>(), 1..6)) {
        let blocks: Vec<[u8; 4]> = tokens.iter().map(|token| token.to_le_bytes()).collect();
        let from_blocks = space.chunk_keys_from_blocks(&blocks, 1).unwrap();
        prop_assert!(are_strangers(&keys(&space, &tokens, 1, &[]), &from_blocks));
    }
}
