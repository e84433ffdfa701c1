//! The command line.

use auth_capture::AuthCapture;
use pipekeeper_testing::service::Program;

const BINARY: &str = env!("CARGO_BIN_EXE_auth-capture");

pipekeeper_testing::promises_of_a_service!(AuthCapture, BINARY);

#[test]
fn the_api_describes_itself() {
    let run = Program::<AuthCapture>::new(BINARY).run(&["openapi"], &[]);
    insta::assert_snapshot!(run.stdout);
}
