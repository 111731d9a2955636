//! A made-up trace of the shape real ones have, for those who have no recorded one.
//!
//! Conversations of several turns begin one after the other. Each starts from one of a few system prompts (the first
//! ones far more popular than the last), brings a document or a question of its own, and carries its whole history in
//! every later prompt. Some turns are tool calls: the answer is short, and its result comes back at once as the next
//! prompt. A block is named when all of its tokens are known; the last, partial block of a prompt has a name of its
//! own, since the next turn will have filled it with something else.
//!
//! Promises: the same seed and number of requests give the same bytes on every machine. Only whole numbers are used,
//! and the generator of random ones ([`SplitMix`]) is part of this promise.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::content::mix;
use crate::trace::Request;

/// Tokens of a block.
const BLOCK_TOKENS: u64 = 512;

/// System prompts: tokens of each, the most popular first. One with tools is long.
const SYSTEM_PROMPT_TOKENS: [u64; 8] = [700, 1500, 600, 2600, 3300, 1100, 5200, 9000];

/// Between the begins of two conversations, at most; half of it on average.
const ARRIVAL_MS_MAX: u64 = 900;
/// Between an answer and the next prompt of a person, at least and at most.
const THINKING_MS: (u64, u64) = (5_000, 120_000);
/// The same of a tool.
const TOOL_MS: (u64, u64) = (50, 3_000);

/// Steele, Lea and Flood's `SplitMix64`.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, each as likely as the other but for 1 in 2^32.
    fn below(&mut self, bound: u64) -> u64 {
        ((self.next() >> 32) * bound) >> 32
    }

    /// A number from `least` to `most`.
    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Whether something that happens `percent` times of 100 does.
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A length with a long tail: each doubling of `least` is about as likely as the one before, up to `doublings`.
    fn length(&mut self, least: u64, doublings: u64) -> u64 {
        let from = least << self.below(doublings);
        self.between((from, 2 * from))
    }
}

/// A conversation under way.
struct Conversation {
    blocks: Vec<u64>,
    tokens: u64,
    turns: u64,
    turns_left: u64,
    uses_tools: bool,
}

/// Makes `requests` requests.
pub(crate) fn generate(requests: usize, seed: u64) -> Vec<Request> {
    let mut random = SplitMix(seed);
    let mut next_block = 0;
    let mut name = || {
        next_block += 1;
        next_block - 1
    };
    // Only whole blocks of a system prompt are shared.
    let shared: Vec<Vec<u64>> = SYSTEM_PROMPT_TOKENS
        .iter()
        .map(|tokens| (0..tokens / BLOCK_TOKENS).map(|_| name()).collect())
        .collect();

    let mut made = Vec::with_capacity(requests);
    let mut conversations: Vec<Conversation> = Vec::new();
    // Whose next prompt comes when.
    let mut due: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut begins_at = 0;
    while made.len() < requests {
        let next = due.peek().map(|Reverse(first)| *first).filter(|(at, _)| *at <= begins_at);
        let (now, number) = if let Some(first) = next {
            due.pop();
            first
        } else {
            let system = usize::try_from(random.below(8).min(random.below(8))).unwrap_or(0);
            conversations.push(Conversation {
                blocks: shared[system].clone(),
                tokens: SYSTEM_PROMPT_TOKENS[system],
                turns: 0,
                turns_left: if random.chance(60) { 1 } else { random.between((2, 4)) },
                uses_tools: random.chance(30),
            });
            let now = begins_at;
            begins_at += random.below(ARRIVAL_MS_MAX);
            (now, conversations.len() - 1)
        };
        let conversation = &mut conversations[number];
        // What it is about comes with the first turn.
        conversation.tokens += random.length(if conversation.turns == 0 { 700 } else { 100 }, 6);
        let tool_call = conversation.uses_tools && random.chance(60);
        let answer = if tool_call { random.between((20, 120)) } else { random.between((50, 900)) };

        let whole = conversation.tokens / BLOCK_TOKENS;
        while (conversation.blocks.len() as u64) < whole {
            conversation.blocks.push(name());
        }
        let mut hash_ids = conversation.blocks.clone();
        if !conversation.tokens.is_multiple_of(BLOCK_TOKENS) {
            hash_ids.push(name());
        }
        made.push(Request {
            timestamp: now,
            input_length: conversation.tokens,
            output_length: answer,
            hash_ids,
        });

        conversation.tokens += answer;
        conversation.turns += 1;
        conversation.turns_left -= 1;
        if conversation.turns_left == 0 {
            conversation.blocks = Vec::new();
        } else {
            // A result of a tool, or a person who has read the answer (20 ms a token until it is there).
            let pause = random.between(if tool_call { TOOL_MS } else { THINKING_MS });
            due.push(Reverse((now + 20 * answer + pause, number)));
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        let trace = generate(300, 7);
        assert_eq!(trace, generate(300, 7));
        assert_eq!(trace[..100], generate(100, 7)[..], "fewer requests are a front part");
        assert_ne!(trace, generate(300, 8));
    }

    #[test]
    fn it_has_the_shape_of_real_ones() {
        let trace = generate(4000, 1);
        assert_eq!(trace.len(), 4000);
        let mut seen: HashSet<u64> = HashSet::new();
        let (mut hit, mut all) = (0, 0);
        let mut before = 0;
        for request in &trace {
            assert!(before <= request.timestamp, "in order of time");
            before = request.timestamp;
            assert_eq!(request.hash_ids.len() as u64, request.input_length.div_ceil(BLOCK_TOKENS));
            let known: Vec<bool> = request.hash_ids.iter().map(|id| seen.contains(id)).collect();
            let prefix = known.iter().take_while(|known| **known).count();
            assert!(!known[prefix..].contains(&true), "a block is known only with all blocks before it");
            hit += prefix;
            all += known.len();
            seen.extend(&request.hash_ids);
        }
        // Mooncake's conversations: 24 blocks a request, 37 of 100 seen before.
        assert!((20..32).contains(&(all / trace.len())), "{} blocks a request", all / trace.len());
        assert!((35..55).contains(&(100 * hit / all)), "{hit} of {all} seen before");
    }
}
