fn main() -> std::process::ExitCode {
    pipekeeper_service::main::<token_refresher::TokenRefresher>()
}
