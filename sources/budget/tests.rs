//! The budget under random tasks, and each promise by name. Time is tokio's, paused: a test that
//! would wait for ever ends at once by its limit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

type Waiting = Pin<Box<dyn Future<Output = Result<Charge, BudgetError>>>>;

fn reserve(budget: &Budget, class: Class, bytes: usize) -> Waiting {
    let budget = budget.clone();
    Box::pin(async move { budget.reserve(class, bytes).await })
}

fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn granted(waiting: &mut Waiting) -> Option<Charge> {
    match poll(waiting) {
        Poll::Ready(charge) => Some(charge.unwrap()),
        Poll::Pending => None,
    }
}

fn now(budget: &Budget, class: Class, bytes: usize) -> Charge {
    granted(&mut reserve(budget, class, bytes)).expect("there is room")
}

#[test]
fn a_waiter_that_leaves_lets_those_behind_it_pass() {
    let budget = Budget::new(16);
    let held = now(&budget, Class::Log, 12);
    let mut log = reserve(&budget, Class::Log, 8);
    let mut read = reserve(&budget, Class::Read, 2);
    assert!(granted(&mut log).is_none());
    assert!(granted(&mut read).is_none(), "the log is served first");
    drop(log);
    let read = granted(&mut read).expect("nobody is before it");
    assert_eq!(budget.used(), 14);
    drop((held, read));
    assert_eq!(budget.used(), 0);
}
