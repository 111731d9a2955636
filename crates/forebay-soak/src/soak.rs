//! The whole: instances, engines, faults and a server, for so many minutes, with a rest in each.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use forebay::Value;

use crate::client::{Client, Signals};
use crate::engine::Pool;
use crate::faults::{Faults, FaultsTold};
use crate::instance::Instance;
use crate::ledger::{Count, Ledger};
use crate::prompts::{Conversations, Prompts};
use crate::rest::Taken;
use crate::server::Server;

/// An engine or the source of faults that does not go around for so long hangs. Opening a cache again takes a while.
const BEAT_MAX: Duration = Duration::from_secs(90);
/// Resident memory at the end may be so many parts of a thousand above what it was after the first rest, if that came
/// after a minute at least; before that caches and catalogs still fill up.
const GROWTH_PER_MILLE: u64 = 10;
const EARLY_GROWTH_PER_MILLE: u64 = 50;
const MIB: f64 = 1.0 / 1024.0;

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) time: Duration,
    /// From one rest to the next.
    pub(crate) between_rests: Duration,
    pub(crate) seed: u64,
}

/// See the module's documentation.
pub(crate) struct Soak {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) instances: Vec<Arc<Instance>>,
    pub(crate) pools: Vec<Arc<Pool>>,
    pub(crate) signals: Vec<Arc<Signals>>,
    pub(crate) told: Arc<FaultsTold>,
    /// Where the server is.
    pub(crate) port: u16,
}

impl Soak {
    /// Runs it; gives whether all was right.
    pub(crate) fn run(plan: &Plan, directory: &Path, ledger: &Arc<Ledger>) -> Result<bool, String> {
        let server = Server::start(160)?;
        let url = server.url();
        let sizes = |cpu: f64, disk: f64| {
            [("max_local_cpu_size", Value::from(cpu * MIB)), ("max_local_disk_size", Value::from(disk * MIB))]
        };
        let [cpu, disk] = sizes(120.0, 192.0);
        let first = Instance::open("first", directory.join("first"), &url, [cpu, disk])?;
        // Two slots, and nothing is answered from memory.
        let ([cpu, disk], mode) = (sizes(6.0, 160.0), ("use_only_staging_buffer", Value::from(true)));
        let second = Instance::open("second", directory.join("second"), &url, [cpu, disk, mode])?;

        let instances = vec![Arc::new(first), Arc::new(second)];
        let pool = || Pool::new(320, 12).map(Arc::new).map_err(|error| error.to_string());
        let pools = vec![pool()?, pool()?, pool()?];
        let signals: Vec<Arc<Signals>> = (0..3).map(|_| Arc::default()).collect();
        let told = Arc::<FaultsTold>::default();
        let soak = Self { ledger: Arc::clone(ledger), instances, pools, signals, told, port: server.port() };

        let mut random = Rng::with_seed(plan.seed);
        let conversations = Conversations::new();
        let turns = || Prompts::Turns(Arc::clone(&conversations));
        let trace = Prompts::trace(directory, plan.seed)?;
        let mut threads = vec![
            soak.client("engine 1", 0, 0, turns(), random.fork()),
            soak.client("engine 2", 1, 1, turns(), random.fork()),
            soak.client("replay", 0, 2, trace, random.fork()),
        ];
        let faults = Faults {
            ledger: Arc::clone(ledger),
            instances: soak.instances.clone(),
            pools: soak.pools.clone(),
            signals: soak.signals.clone(),
            server,
            random: random.fork(),
            told: Arc::clone(&soak.told),
            due: Vec::new(),
            until: None,
        };
        threads.push(spawn("faults", move || faults.run()));

        let rests = soak.go_on(plan);
        soak.ledger.is_over.store(true, Ordering::SeqCst);
        if soak.ledger.failures().0 > 0 {
            soak.dump();
        }
        let deadline = Instant::now() + BEAT_MAX;
        while !threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        for thread in threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if !thread.is_finished() {
                ledger.fail(format!("{name} does not end"));
            } else if thread.join().is_err() {
                ledger.fail(format!("{name} panicked"));
            }
        }
        let is_early = plan.between_rests < Duration::from_mins(1);
        soak.conclude(&rests, if is_early { EARLY_GROWTH_PER_MILLE } else { GROWTH_PER_MILLE });
        Ok(ledger.failures().0 == 0)
    }

    fn client(
        &self,
        name: &'static str,
        instance: usize,
        number: usize,
        prompts: Prompts,
        random: Rng,
    ) -> JoinHandle<()> {
        let client = Client {
            name,
            ledger: Arc::clone(&self.ledger),
            instance: Arc::clone(&self.instances[instance]),
            pool: Arc::clone(&self.pools[number]),
            signals: Arc::clone(&self.signals[number]),
            prompts,
            random,
            running: Vec::new(),
            left: Vec::new(),
            epoch: 1,
        };
        spawn(name, move || client.run())
    }

    /// Lets it all happen; gives what the process took at each rest.
    fn go_on(&self, plan: &Plan) -> Vec<Taken> {
        let began = Instant::now();
        let mut rests = Vec::new();
        while !self.ledger.is_over() && began.elapsed() < plan.time {
            let rests_so_far = u32::try_from(rests.len()).unwrap_or(u32::MAX);
            let next = (plan.between_rests * (rests_so_far + 1)).min(plan.time);
            while !self.ledger.is_over() && began.elapsed() < next {
                self.look_at_beats();
                std::thread::sleep(Duration::from_millis(50));
            }
            let Some(taken) = self.rest() else { break };
            self.say(began.elapsed(), taken);
            rests.push(taken);
        }
        rests
    }

    /// Whether all threads go around.
    pub(crate) fn look_at_beats(&self) {
        let now = self.ledger.now_ms();
        let beats = self.signals.iter().map(|signals| &signals.beat_ms).chain([&self.told.beat_ms]);
        for (number, beat) in beats.enumerate() {
            let age = Duration::from_millis(now.saturating_sub(beat.load(Ordering::Relaxed)));
            if age > BEAT_MAX {
                self.ledger.fail(format!("thread {number} of engines and faults has hung for {age:?}"));
                self.ledger.is_over.store(true, Ordering::SeqCst);
            }
        }
    }

    fn say(&self, after: Duration, taken: Taken) {
        let get = |count| self.ledger.get(count);
        println!(
            "{:5.1} min: {} requests, {} chunks stored, {} loaded ({} memory, {} disk, {} server), {} hit; \
             rss {} KiB (untrimmed {}), {} fds, {} threads; {}",
            after.as_secs_f64() / 60.0,
            get(Count::Requests),
            get(Count::Stored),
            get(Count::FromMemory) + get(Count::FromDisk) + get(Count::FromRemote),
            get(Count::FromMemory),
            get(Count::FromDisk),
            get(Count::FromRemote),
            get(Count::HitChunks),
            taken.resident_kib,
            taken.untrimmed_kib,
            taken.files,
            taken.threads,
            self.told.line(),
        );
    }

    /// What everybody was doing.
    fn dump(&self) {
        for signals in &self.signals {
            eprintln!("an engine: {}", signals.doing.lock());
        }
        for instance in &self.instances {
            match instance.cache() {
                Some((cache, _)) => eprintln!("{}: {:?}", instance.name, cache.stats()),
                None => eprintln!("{}: closed", instance.name),
            }
        }
    }

    /// Compares the last rest with the first, and prints what was counted.
    fn conclude(&self, rests: &[Taken], growth_per_mille: u64) {
        match rests {
            [first, .., last] => {
                if (first.files, first.threads) != (last.files, last.threads) {
                    self.ledger
                        .fail(format!("file descriptors or threads are left: {first:?}, then {last:?}"));
                }
                let most = first.resident_kib + first.resident_kib * growth_per_mille / 1000;
                if last.resident_kib > most {
                    self.ledger.fail(format!(
                        "resident memory grew from {} to {} KiB, more than {growth_per_mille} parts of a thousand",
                        first.resident_kib, last.resident_kib
                    ));
                }
            }
            _ => self.ledger.fail("it did not come to rest twice, so nothing can be compared"),
        }
        self.instances.iter().for_each(|instance| instance.conclude(&self.ledger));
        let rows = self.ledger.rows().into_iter();
        let faults = self.told.rows().into_iter().map(|(name, count)| (format!("fault: {name}"), count));
        for (name, count) in rows.chain(faults) {
            println!("{name:36} {count:>12}");
        }
        // What cannot fail is not worth much: all of it has to have been there.
        for count in [Count::FromMemory, Count::FromDisk, Count::FromRemote, Count::Stored, Count::Cancelled]
        {
            if self.ledger.get(count) == 0 {
                self.ledger.fail(format!("there was no {count:?}: it proves nothing"));
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.expect("a thread can be started")
}
