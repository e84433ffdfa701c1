fn main() -> std::process::ExitCode {
    pipekeeper_service::main::<auth_capture::AuthCapture>()
}
