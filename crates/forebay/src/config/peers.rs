//! The keys of `LMCache`, and what becomes of each here.
//!
//! The keys of the engine configuration of `LMCache` 0.5.6 and its deprecated names, and names of older and newer versions
//! that are found in files. Facts only: names, and what they mean to a user of ours. The table in `docs/CONFIG.md` is
//! this one (a test compares them).

use std::fmt;

/// `LMCache`'s map of further settings.
pub(super) const EXTRA_CONFIG: &str = "extra_config";

/// `LMCache`'s key for the one place to store to.
pub(super) const STORE_LOCATION: &str = "store_location";

/// A key of `LMCache`.
#[derive(Debug)]
pub struct PeerKey {
    /// Its name. One that ends in `*` stands for all names that begin so.
    pub name: &'static str,
    /// What becomes of it.
    pub verdict: Verdict,
    /// How it differs, or why it has no meaning here.
    pub note: &'static str,
}

/// What becomes of a key of `LMCache` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It means the same.
    Same,
    /// It is read, and means something a little different.
    Different,
    /// It is accepted, with a warning, and has no effect.
    NotApplicable,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::NotApplicable => "not applicable",
        })
    }
}

/// The key of this name: an exact match before a prefix.
pub(super) fn find(name: &str) -> Option<&'static PeerKey> {
    PEER_KEYS.iter().find(|key| key.name == name).or_else(|| {
        PEER_KEYS.iter().find(|key| key.name.strip_suffix('*').is_some_and(|start| name.starts_with(start)))
    })
}

const fn same(name: &'static str, note: &'static str) -> PeerKey {
    PeerKey { name, verdict: Verdict::Same, note }
}

const fn different(name: &'static str, note: &'static str) -> PeerKey {
    PeerKey { name, verdict: Verdict::Different, note }
}

const fn none(name: &'static str, note: &'static str) -> PeerKey {
    PeerKey { name, verdict: Verdict::NotApplicable, note }
}

// Why whole families of keys have no meaning here.
const API: &str = "http_listen shows metrics, health and a page; there is no such server besides";
const BLEND: &str = "only prefixes are reused, never text in the middle of a prompt";
const CONTROLLER: &str = "there is no controller process";
const COST: &str = "no eviction policy goes by cost";
const GDS: &str = "data crosses the staging buffer; GPUDirect Storage is not used";
const HIDDEN_STATES: &str = "only KV cache is stored, no hidden states";
const LAZY: &str = "all memory is allocated at start and none after";
const LOOKUP: &str = "a lookup is answered in the scheduler's own process, without a server";
const LOOKUP_TIMEOUT: &str =
    "there is no lookup server to wait for; lookup_wait_s bounds how long a lookup may hold a request up";
const MARU: &str = "there is no tier on CXL memory";
const NIXL: &str = "NIXL is not used; disk_direct_io and disk_io_threads tune the disk";
const P2P: &str = "instances do not talk to each other; what they share stands in the remote tier";
const PD: &str =
    "prefill and decode instances do not talk to each other; what they share stands in the remote tier";
const PINS: &str = "a pin is released by its owner on every exit path, so there is nothing to time out";
const PLUGINS: &str = "foreign code is not loaded";
const STATISTICS: &str = "chunks are always counted; see `stats()`";
const CENTRAL: &str = "configuration is never fetched over the network";

/// Every key of `LMCache` that is known here, those that we share first.
pub const PEER_KEYS: &[PeerKey] = &[
    same("chunk_size", "tokens of one chunk"),
    same("save_decode_cache", "stores chunks of generated tokens too"),
    different(
        "local_cpu",
        "the memory tier has what staging leaves of max_local_cpu_size; alone it is refused, local_disk or remote_url has to be set",
    ),
    different(
        "max_local_cpu_size",
        "GiB; bounds all CPU memory in every mode, staging included, and what is used of it is allocated at start",
    ),
    different(
        "local_disk",
        "plain or `file://`; of several directories every one is used by one cache, in even parts; what they hold is found again after a restart",
    ),
    different(
        "max_local_disk_size",
        "GiB; 0 with local_disk set is an error, where LMCache silently has no disk",
    ),
    different(
        "remote_url",
        "s3, redis, rediss, valkey, valkeys and file are spoken, and another store is an error; s3:// names bucket and prefix, not a host; fs:// is file:// here",
    ),
    different(
        "cache_policy",
        "LRU, FIFO and LFU as there, and S3-FIFO; LFU lets old fame fade. The others are accepted, with a warning, and LRU is used",
    ),
    different(
        STORE_LOCATION,
        "LocalCPUBackend, LocalDiskBackend and RemoteBackend become store_to; another name is ignored, with a warning",
    ),
    different(
        "use_only_staging_buffer",
        "proposed to LMCache, not in its releases; here guaranteed, and local_cpu need not be set",
    ),
    different(EXTRA_CONFIG, "four entries are read, see below; others are ignored, with a warning"),
    // Memory
    none("local_cpu_use_hugepages", "huge pages are always asked for, with a fallback"),
    none(
        "reserve_local_cpu_size",
        "max_local_cpu_size is allocated at start, so nothing can be taken from the system later",
    ),
    none("enable_lazy_memory_allocator", LAZY),
    none("lazy_memory_initial_ratio", LAZY),
    none("lazy_memory_expand_trigger_ratio", LAZY),
    none("lazy_memory_step_ratio", LAZY),
    none("lazy_memory_safe_size", LAZY),
    none("numa_mode", "memory is placed by the system; start the engine under numactl to bind it"),
    none("pin_timeout_sec", PINS),
    none("pin_check_interval_sec", PINS),
    none("py_enable_gc", "the data path is not Python, so its garbage collector is left alone"),
    // Chunks and keys
    none("save_unfull_chunk", "only whole chunks are stored"),
    none("pre_caching_hash_algorithm", "keys are made by one cryptographic hash, the same in every process"),
    none("remote_serde", "chunks are stored as the bytes they are, as with naive; nothing is compressed"),
    none("use_layerwise", "a chunk holds all layers and moves as one"),
    none("use_gpu_connector_v3", "the vLLM connector is ours"),
    none("priority_limit", "the priority of a request is not looked at"),
    none("min_retrieve_tokens", "every whole chunk that is found is loaded"),
    none("enable_kv_events", "no events are published"),
    // Loading and storing
    none(
        "blocking_timeout_secs",
        "load_timeout_s, store_timeout_s and remote_timeout_s bound the waits here",
    ),
    none("enable_async_loading", "loading is always asynchronous"),
    none("retrieve_locations", "every tier that is set is looked up, in a fixed order: memory, disk, remote"),
    none("local_disk_path_sharding", "chunks are spread over all directories of local_disk"),
    // Lookup
    none("lookup_timeout_ms", LOOKUP_TIMEOUT),
    none("lookup_server_worker_ids", LOOKUP),
    none("enable_scheduler_bypass_lookup", LOOKUP),
    none("external_lookup_client", LOOKUP),
    none("hit_miss_ratio", "lookups are never made up"),
    // Eviction
    none("cost_aware_half_life_seconds", COST),
    none("cost_aware_ewma_alpha", COST),
    // Blending
    none("enable_blending", BLEND),
    none("blend_recompute_ratios", BLEND),
    none("blend_thresholds", BLEND),
    none("blend_check_layers", BLEND),
    none("blend_min_tokens", BLEND),
    none("blend_special_str", BLEND),
    // Between instances
    none("enable_p2p", P2P),
    none("p2p_host", P2P),
    none("p2p_init_ports", P2P),
    none("p2p_lookup_ports", P2P),
    none("transfer_channel", P2P),
    none("mp_host", "there is no server process"),
    none("mp_port", "there is no server process"),
    none("enable_controller", CONTROLLER),
    none("controller_pull_url", CONTROLLER),
    none("controller_reply_url", CONTROLLER),
    none("lmcache_instance_id", CONTROLLER),
    none("lmcache_worker_ports", CONTROLLER),
    none("lmcache_worker_ids", CONTROLLER),
    none("lmcache_worker_heartbeat_delay_time", CONTROLLER),
    none("lmcache_worker_heartbeat_time", CONTROLLER),
    none("enable_pd", PD),
    none("pd_role", PD),
    none("pd_buffer_size", PD),
    none("pd_buffer_device", PD),
    none("pd_peer_host", PD),
    none("pd_peer_init_port", PD),
    none("pd_peer_alloc_port", PD),
    none("pd_peer_query_port", PD),
    none("pd_proxy_host", PD),
    none("pd_proxy_port", PD),
    none("pd_allocation_timeout_sec", PD),
    none("pd_shutdown_timeout_sec", PD),
    none("pd_condition_poll_interval_sec", PD),
    none("pd_max_prefill_len", PD),
    none("pd_backend_mode", PD),
    none("pd_skip_proxy_notification", PD),
    none("pd_bidirectional", PD),
    // Other storage
    none("nixl_backends", NIXL),
    none("nixl_buffer_size", NIXL),
    none("nixl_buffer_device", NIXL),
    none("use_gds", GDS),
    none("gds_backend", GDS),
    none("gds_path", GDS),
    none("gds_path_sharding", GDS),
    none("gds_buffer_size", GDS),
    none("maru_path", MARU),
    none("maru_pool_size", MARU),
    none("storage_plugins", PLUGINS),
    none("remote_storage_plugins", PLUGINS),
    none("runtime_plugin_locations", PLUGINS),
    // Operation
    none("internal_api_server_enabled", API),
    none("internal_api_server_host", API),
    none("internal_api_server_port_start", API),
    none("internal_api_server_include_index_list", API),
    none("internal_api_server_socket_path_prefix", API),
    none("script_allowed_imports", API),
    none("run_script_api_enabled", API),
    none("enable_chunk_statistics", STATISTICS),
    none("chunk_statistics_auto_start_statistics", STATISTICS),
    none("chunk_statistics_auto_exit_timeout_hours", STATISTICS),
    none("chunk_statistics_auto_exit_target_unique_chunks", STATISTICS),
    none("chunk_statistics_strategy", STATISTICS),
    none("audit_actual_remote_url", "there is no audit backend"),
    none("remote_config_url", CENTRAL),
    none("app_id", CENTRAL),
    none("enable_hidden_state_cache", HIDDEN_STATES),
    none("max_hidden_state_cpu_size", HIDDEN_STATES),
    none("hidden_state_layers", HIDDEN_STATES),
    none("hidden_states_retrieve_mode", HIDDEN_STATES),
    none("ec", "there is no encoder cache"),
    none("ec_*", "there is no encoder cache"),
    // Deprecated names, and names of older releases
    none("enable_xpyd", PD),
    none("enable_nixl", PD),
    none("nixl_role", PD),
    none("nixl_peer_host", PD),
    none("nixl_peer_port", PD),
    none("nixl_peer_init_port", PD),
    none("nixl_peer_alloc_port", PD),
    none("nixl_proxy_host", PD),
    none("nixl_proxy_port", PD),
    none("nixl_receiver_host", PD),
    none("nixl_receiver_port", PD),
    none("nixl_enable_gc", PD),
    none("controller_url", CONTROLLER),
    none("lmcache_worker_port", CONTROLLER),
    none("plugin_locations", PLUGINS),
    none("external_backends", PLUGINS),
    none("lookup_url", P2P),
    none("distributed_url", P2P),
    none("peer_init_ports", P2P),
    none("peer_lookup_ports", P2P),
    none("blend_recompute_ratio", BLEND),
    none("weka_path", GDS),
    none("cufile_buffer_size", GDS),
    none("error_handling", "every error ends as a recompute, is counted and is reported"),
    none("local_device", "say local_cpu and local_disk instead"),
    none("max_local_cache_size", "say max_local_cpu_size and max_local_disk_size instead"),
    none("pipelined_backend", "transfers always stream"),
];
