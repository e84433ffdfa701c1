fn main() -> std::process::ExitCode {
    pipekeeper_service::main::<data_api::DataApi>()
}
