//! System calls that are refused, the way a container or an odd file system does.

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Refuses a system call with an error, to this thread and those it starts, for good; with `second`, only calls whose second
/// argument that is.
pub(crate) fn forbid(call: libc::c_long, second: Option<u32>, errno: i32) {
    let is_meant = |value| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value));
        SeccompRule::new(vec![condition.expect("a condition")]).expect("a rule")
    };
    let rules = [(call, second.map(is_meant).into_iter().collect())].into();
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let here = std::env::consts::ARCH.try_into().expect("a processor that seccomp knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, here).expect("a sound filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a sound program");
    seccompiler::apply_filter(&program).expect("a thread may restrict itself");
}
