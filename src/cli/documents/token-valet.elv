
use builtin;
use str;

set edit:completion:arg-completer[token-valet] = {|@words|
    fn spaces {|n|
        builtin:repeat $n ' ' | str:join ''
    }
    fn cand {|text desc|
        edit:complex-candidate $text &display=$text' '(spaces (- 14 (wcswidth $text)))$desc
    }
    var command = 'token-valet'
    for word $words[1..-1] {
        if (str:has-prefix $word '-') {
            break
        }
        set command = $command';'$word
    }
    var completions = [
        &'token-valet'= {
            cand -h 'Print help'
            cand --help 'Print help'
            cand -V 'Print version'
            cand --version 'Print version'
            cand run 'Run the sidecar'
            cand exec 'Run the sidecar and, after its first token, a command; end with the command, and its exit code'
            cand check 'Tell every fault of the configuration at once'
            cand health 'Ask a running sidecar whether it is alive, started or ready'
            cand quit 'Have a running sidecar drain and end, where `admin.quit = true` permits it'
            cand config 'Show the configuration'
            cand sandbox 'Try the sidecar against an imitation of the provider, without credentials'
            cand completions 'Print what completes this command in a shell'
            cand man 'Print the manual page: `token-valet man | man -l -`'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'token-valet;run'= {
            cand -c 'The configuration'
            cand --config 'The configuration'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;exec'= {
            cand -c 'The configuration'
            cand --config 'The configuration'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;check'= {
            cand -c 'The configuration'
            cand --config 'The configuration'
            cand --online 'Connect to the API too, without a request, and fetch a token if that uses nothing up'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;health'= {
            cand -c 'The configuration'
            cand --config 'The configuration'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'token-valet;quit'= {
            cand -c 'The configuration'
            cand --config 'The configuration'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;config'= {
            cand -h 'Print help'
            cand --help 'Print help'
            cand show 'The values in force and where each comes from, without secrets'
            cand schema 'A JSON Schema of the file, for editors'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'token-valet;config;show'= {
            cand -c 'The configuration'
            cand --config 'The configuration'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;config;schema'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;config;help'= {
            cand show 'The values in force and where each comes from, without secrets'
            cand schema 'A JSON Schema of the file, for editors'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'token-valet;config;help;show'= {
        }
        &'token-valet;config;help;schema'= {
        }
        &'token-valet;config;help;help'= {
        }
        &'token-valet;sandbox'= {
            cand -c 'A configuration to use instead of the built-in one; the command itself sets URLs, certificates and secrets'
            cand --config 'A configuration to use instead of the built-in one; the command itself sets URLs, certificates and secrets'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;completions'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;man'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'token-valet;help'= {
            cand run 'Run the sidecar'
            cand exec 'Run the sidecar and, after its first token, a command; end with the command, and its exit code'
            cand check 'Tell every fault of the configuration at once'
            cand health 'Ask a running sidecar whether it is alive, started or ready'
            cand quit 'Have a running sidecar drain and end, where `admin.quit = true` permits it'
            cand config 'Show the configuration'
            cand sandbox 'Try the sidecar against an imitation of the provider, without credentials'
            cand completions 'Print what completes this command in a shell'
            cand man 'Print the manual page: `token-valet man | man -l -`'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'token-valet;help;run'= {
        }
        &'token-valet;help;exec'= {
        }
        &'token-valet;help;check'= {
        }
        &'token-valet;help;health'= {
        }
        &'token-valet;help;quit'= {
        }
        &'token-valet;help;config'= {
            cand show 'The values in force and where each comes from, without secrets'
            cand schema 'A JSON Schema of the file, for editors'
        }
        &'token-valet;help;config;show'= {
        }
        &'token-valet;help;config;schema'= {
        }
        &'token-valet;help;sandbox'= {
        }
        &'token-valet;help;completions'= {
        }
        &'token-valet;help;man'= {
        }
        &'token-valet;help;help'= {
        }
    ]
    $completions[$command]
}
