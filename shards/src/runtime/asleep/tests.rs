//! Every interleaving of a sleeper and its callers, on a memory in which stores become visible late: each thread has a
//! queue of stores that the others do not see yet, as the CPUs have that this runs on. A fence empties it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::{Asleep, Flag};

const FLAG: usize = 0;
const QUEUE: usize = 1;
const RINGS: usize = 2;

thread_local! {
    static ME: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// What one run does, step by step, as the plan says.
#[derive(Default)]
struct State {
    memory: [usize; 3],
    /// Stores that the other threads do not see yet, oldest first.
    late: Vec<VecDeque<(usize, usize)>>,
    /// Threads that stand before a step, and those that have ended.
    waiting: Vec<bool>,
    ended: Vec<bool>,
    /// The thread that may take its step.
    turn: Option<usize>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();
/// The model is one for the process: tests take it in turns.
static MODEL: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, Option<State>> {
    STATE.lock().expect("no thread of the model panics with it")
}

/// One step of this thread, taken when the plan says so.
fn step<T>(act: impl FnOnce(&mut State, usize) -> T) -> T {
    let me = ME.get();
    let mut state = lock();
    state.as_mut().expect("a run").waiting[me] = true;
    CHANGED.notify_all();
    while state.as_ref().expect("a run").turn != Some(me) {
        state = CHANGED.wait(state).expect("no thread of the model panics with it");
    }
    let run = state.as_mut().expect("a run");
    (run.turn, run.waiting[me]) = (None, false);
    act(run, me)
}

fn load(at: usize) -> usize {
    step(|run, me| {
        let mine = run.late[me].iter().rev().find(|(late, _)| *late == at);
        mine.map_or(run.memory[at], |(_, value)| *value)
    })
}

fn store(at: usize, value: usize) {
    step(|run, me| run.late[me].push_back((at, value)));
}

fn empty(run: &mut State, me: usize) {
    while let Some((at, value)) = run.late[me].pop_front() {
        run.memory[at] = value;
    }
}

/// Reads and writes in one, which every thread sees at once.
fn change(at: usize, to: impl FnOnce(usize) -> usize) -> usize {
    step(|run, me| {
        empty(run, me);
        let before = run.memory[at];
        run.memory[at] = to(before);
        before
    })
}

#[derive(Default)]
struct LateFlag;

impl Flag for LateFlag {
    fn load(&self) -> bool {
        load(FLAG) != 0
    }

    fn store(&self, value: bool) {
        store(FLAG, usize::from(value));
    }

    fn take(&self) -> bool {
        change(FLAG, |_| 0) != 0
    }

    fn fence() {
        step(empty);
    }
}

/// Fills the queue, and rings if it has to.
fn call(asleep: &Asleep<LateFlag>) {
    store(QUEUE, 1);
    if asleep.must_ring() {
        change(RINGS, |rings| rings + 1);
    }
}

/// Plays `threads` in every order there is, and hands the memory of each end to `check`. Answers how many there are.
fn explore(threads: &[&(dyn Fn() + Sync)], check: impl Fn([usize; 3])) -> usize {
    let _one = MODEL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut plan, mut runs): (Vec<(usize, usize)>, usize) = (Vec::new(), 0);
    loop {
        let memory = run(threads, &mut plan);
        runs += 1;
        check(memory);
        while plan.last().is_some_and(|(choice, options)| choice + 1 == *options) {
            plan.pop();
        }
        match plan.last_mut() {
            Some((choice, _)) => *choice += 1,
            None => return runs,
        }
    }
}

/// One order: as the plan says as far as it goes, then the first choice each time, which the plan learns.
fn run(threads: &[&(dyn Fn() + Sync)], plan: &mut Vec<(usize, usize)>) -> [usize; 3] {
    let count = threads.len();
    *lock() = Some(State {
        late: vec![VecDeque::new(); count],
        waiting: vec![false; count],
        ended: vec![false; count],
        ..State::default()
    });
    std::thread::scope(|scope| {
        for (me, thread) in threads.iter().enumerate() {
            scope.spawn(move || {
                ME.set(me);
                thread();
                lock().as_mut().expect("a run").ended[me] = true;
                CHANGED.notify_all();
            });
        }
        let mut depth = 0;
        loop {
            let mut state = lock();
            let settled = |state: &State| {
                state.turn.is_none() && (0..count).all(|at| state.waiting[at] || state.ended[at])
            };
            while !settled(state.as_ref().expect("a run")) {
                state = CHANGED.wait(state).expect("no thread of the model panics with it");
            }
            let run = state.as_mut().expect("a run");
            // A thread takes its step, or its oldest store becomes visible.
            let steps = (0..count).filter(|at| run.waiting[*at]).map(|at| (at, true));
            let stores = (0..count).filter(|at| !run.late[*at].is_empty()).map(|at| (at, false));
            let options: Vec<(usize, bool)> = steps.chain(stores).collect();
            if options.is_empty() {
                return;
            }
            if depth == plan.len() {
                plan.push((0, options.len()));
            }
            let (at, is_step) = options[plan[depth].0];
            depth += 1;
            if is_step {
                run.turn = Some(at);
                CHANGED.notify_all();
            } else if let Some((place, value)) = run.late[at].pop_front() {
                run.memory[place] = value;
            }
        }
    });
    lock().take().expect("a run").memory
}

#[test]
fn whoever_sleeps_has_seen_the_message_or_is_rung() {
    let asleep = Asleep(LateFlag);
    let has_seen = std::sync::atomic::AtomicBool::new(false);
    let sleeper = || {
        asleep.prepare();
        has_seen.store(load(QUEUE) > 0, std::sync::atomic::Ordering::SeqCst);
    };
    let caller = || call(&asleep);
    let runs = explore(&[&sleeper, &caller], |memory| {
        let has_seen = has_seen.load(std::sync::atomic::Ordering::SeqCst);
        assert!(has_seen || memory[RINGS] == 1, "it sleeps beside a message");
    });
    assert!(runs > 50, "{runs} orders");
}

#[test]
fn two_callers_ring_a_sleeper_once() {
    let asleep = Asleep(LateFlag);
    let sleeper = || asleep.prepare();
    let caller = || {
        if asleep.must_ring() {
            change(RINGS, |rings| rings + 1);
        }
    };
    let runs = explore(&[&sleeper, &caller, &caller], |memory| assert!(memory[RINGS] <= 1));
    assert!(runs > 50, "{runs} orders");
}

#[test]
fn the_model_finds_what_a_missing_fence_does() {
    let asleep = Asleep(LateFlag);
    let has_seen = std::sync::atomic::AtomicBool::new(false);
    let lost = std::sync::atomic::AtomicUsize::new(0);
    let sleeper = || {
        // The first step without its fence.
        asleep.0.store(true);
        has_seen.store(load(QUEUE) > 0, std::sync::atomic::Ordering::SeqCst);
    };
    let caller = || call(&asleep);
    explore(&[&sleeper, &caller], |memory| {
        let has_seen = has_seen.load(std::sync::atomic::Ordering::SeqCst);
        let is_lost = !has_seen && memory[RINGS] == 0;
        lost.fetch_add(usize::from(is_lost), std::sync::atomic::Ordering::SeqCst);
    });
    assert!(lost.load(std::sync::atomic::Ordering::SeqCst) > 0);
}
