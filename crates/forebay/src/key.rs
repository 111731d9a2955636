//! Names of chunks: the namespace, and the chain of keys of a prompt.
//!
//! Promises: the same fields and tokens give the same keys in every process, on every machine and from every
//! language; two prompts share a key only if they share everything the chunk's bytes depend on (namespace, all
//! tokens up to the chunk's end, extra keys). Assumes SHA-256 has no collisions: it is used because tenants can
//! choose tokens, and a fast hash could be forged.
//!
//! A key is 32 bytes: the first 8 bytes of the namespace's digest, then the first 24 bytes of the chain's digest.
//! So chunks of one namespace can be told from their keys alone (listing, clearing), and the chain part keeps 192
//! bits. All numbers are hashed little-endian, all variable fields are framed by their length, and every digest
//! begins with a domain of its own, so that no two different inputs hash the same bytes.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// Length of a [`ChunkKey`] in bytes.
pub const KEY_BYTES: usize = 32;
/// How many bytes at the front of a key name its namespace.
pub const NAMESPACE_ID_BYTES: usize = 8;

/// The name of a chunk's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkKey([u8; KEY_BYTES]);

impl ChunkKey {
    /// No chunk: what stands where the first chunk of a prompt would name its parent.
    pub const NONE: Self = Self([0; KEY_BYTES]);

    /// A key from its bytes.
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// A key from a slice, which must be 32 bytes long.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when the length is another one.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        bytes.try_into().map(Self).map_err(|_| {
            Error::new(ErrorKind::Argument, format!("a chunk key is {KEY_BYTES} bytes, not {}", bytes.len()))
        })
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The part that names the namespace.
    pub fn namespace_id(&self) -> [u8; NAMESPACE_ID_BYTES] {
        let mut id = [0; NAMESPACE_ID_BYTES];
        id.copy_from_slice(&self.0[..NAMESPACE_ID_BYTES]);
        id
    }
}

// A key is a digest already: eight bytes of its chain part are as good a hash as any.
impl std::hash::Hash for ChunkKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let mut part = [0; 8];
        part.copy_from_slice(&self.0[8..16]);
        state.write_u64(u64::from_le_bytes(part));
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkKey({self})")
    }
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: it stands in every line that tells of a chunk.
        let mut text = [0; 2 * KEY_BYTES];
        for (digits, byte) in text.chunks_exact_mut(2).zip(self.0) {
            digits[0] = HEX_DIGITS[usize::from(byte >> 4)];
            digits[1] = HEX_DIGITS[usize::from(byte & 15)];
        }
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// Whose bytes a chunk holds. Every field takes part in every key: leave one out and another model's bytes match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// Model id, as the engine names it.
    pub model: String,
    /// Revision (commit, version) of the model's weights.
    pub revision: String,
    /// Element type of the KV cache (`float16`, `fp8_e4m3`, …).
    pub kv_dtype: String,
    /// Fingerprint of the layout: layers, heads, head size, tokens per chunk, order in memory, …
    pub layout: String,
    /// Tensor-parallel rank and size.
    pub tp: (u32, u32),
    /// Pipeline-parallel rank and size.
    pub pp: (u32, u32),
    /// Separates tenants: chunks of different salts never meet.
    pub salt: String,
}

impl Namespace {
    /// A namespace of an undivided model (one tensor-parallel and one pipeline-parallel rank).
    pub fn of_model(model: impl Into<String>) -> Self {
        Self { model: model.into(), tp: (0, 1), pp: (0, 1), ..Self::default() }
    }

    /// Names and values of the fields, in the order in which they are hashed.
    pub fn fields(&self) -> [(&'static str, String); 9] {
        [
            ("model", self.model.clone()),
            ("revision", self.revision.clone()),
            ("kv_dtype", self.kv_dtype.clone()),
            ("layout", self.layout.clone()),
            ("tp_rank", self.tp.0.to_string()),
            ("tp_size", self.tp.1.to_string()),
            ("pp_rank", self.pp.0.to_string()),
            ("pp_size", self.pp.1.to_string()),
            ("salt", self.salt.clone()),
        ]
    }

    /// What its keys begin with.
    pub fn id(&self) -> [u8; NAMESPACE_ID_BYTES] {
        let digest = self.digest();
        std::array::from_fn(|at| digest[at])
    }

    /// The digest all keys of this namespace begin from.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        frame(&mut hash, b"forebay namespace 1");
        for (name, value) in self.fields() {
            frame(&mut hash, name.as_bytes());
            frame(&mut hash, value.as_bytes());
        }
        hash.finalize().into()
    }

    /// Keys of the whole chunks of a prompt, in order; a trailing part of a chunk has no key. `extra` is whatever
    /// else the content depends on (a `LoRA`'s name, the hash of an image, a request's salt).
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when `chunk_size_tokens` is zero.
    pub fn chunk_keys(
        &self,
        tokens: &[u32],
        chunk_size_tokens: usize,
        extra: &[&[u8]],
    ) -> Result<Vec<ChunkKey>> {
        let chunks = whole_chunks(tokens, chunk_size_tokens, "chunk_size")?;
        Ok(self.chain(b"forebay tokens 1", chunks, |hash, chunk| {
            hash.update((chunk.len() as u64).to_le_bytes());
            chunk.iter().for_each(|token| hash.update(token.to_le_bytes()));
            hash.update((extra.len() as u64).to_le_bytes());
            extra.iter().for_each(|key| frame(hash, key));
        }))
    }

    /// Keys from an engine's own block hashes, `blocks_per_chunk` of them to a chunk. The hashes must be
    /// cryptographic and cover tokens and extra keys, as vLLM's do.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when `blocks_per_chunk` is zero.
    pub fn chunk_keys_from_blocks<B: AsRef<[u8]>>(
        &self,
        blocks: &[B],
        blocks_per_chunk: usize,
    ) -> Result<Vec<ChunkKey>> {
        let chunks = whole_chunks(blocks, blocks_per_chunk, "blocks_per_chunk")?;
        Ok(self.chain(b"forebay blocks 1", chunks, |hash, chunk| {
            hash.update((chunk.len() as u64).to_le_bytes());
            chunk.iter().for_each(|block| frame(hash, block.as_ref()));
        }))
    }

    fn chain<T>(
        &self,
        domain: &[u8],
        chunks: impl Iterator<Item = T>,
        content: impl Fn(&mut Sha256, T),
    ) -> Vec<ChunkKey> {
        let namespace = self.digest();
        let mut parent = ChunkKey::NONE;
        chunks
            .map(|chunk| {
                let mut hash = Sha256::new();
                frame(&mut hash, domain);
                hash.update(namespace);
                hash.update(parent.0);
                content(&mut hash, chunk);
                let digest: [u8; 32] = hash.finalize().into();
                let mut key = [0; KEY_BYTES];
                key[..NAMESPACE_ID_BYTES].copy_from_slice(&namespace[..NAMESPACE_ID_BYTES]);
                key[NAMESPACE_ID_BYTES..].copy_from_slice(&digest[..KEY_BYTES - NAMESPACE_ID_BYTES]);
                parent = ChunkKey(key);
                parent
            })
            .collect()
    }
}

fn whole_chunks<'a, T>(all: &'a [T], per_chunk: usize, name: &str) -> Result<std::slice::ChunksExact<'a, T>> {
    if per_chunk == 0 {
        return Err(Error::new(ErrorKind::Argument, format!("{name} is 0; it must be at least 1")));
    }
    Ok(all.chunks_exact(per_chunk))
}

fn frame(hash: &mut Sha256, field: &[u8]) {
    hash.update((field.len() as u64).to_le_bytes());
    hash.update(field);
}
