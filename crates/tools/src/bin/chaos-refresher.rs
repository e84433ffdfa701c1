//! The token-refresher that `scripts/chaos` starts.

fn main() -> std::process::ExitCode {
    pipekeeper_service::main::<tools::chaos::injected::ChaosRefresher>()
}
