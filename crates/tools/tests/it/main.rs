//! What `scripts/chaos` promises, played on whole stacks: alone on the machine, unlike the promises of `stack-tests`.

#[cfg(test)]
mod chaos;
