
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'token-valet' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'token-valet'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'token-valet' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('run', 'run', [CompletionResultType]::ParameterValue, 'Run the sidecar')
            [CompletionResult]::new('exec', 'exec', [CompletionResultType]::ParameterValue, 'Run the sidecar and, after its first token, a command; end with the command, and its exit code')
            [CompletionResult]::new('check', 'check', [CompletionResultType]::ParameterValue, 'Tell every fault of the configuration at once')
            [CompletionResult]::new('health', 'health', [CompletionResultType]::ParameterValue, 'Ask a running sidecar whether it is alive, started or ready')
            [CompletionResult]::new('quit', 'quit', [CompletionResultType]::ParameterValue, 'Have a running sidecar drain and end, where `admin.quit = true` permits it')
            [CompletionResult]::new('config', 'config', [CompletionResultType]::ParameterValue, 'Show the configuration')
            [CompletionResult]::new('sandbox', 'sandbox', [CompletionResultType]::ParameterValue, 'Try the sidecar against an imitation of the provider, without credentials')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print what completes this command in a shell')
            [CompletionResult]::new('man', 'man', [CompletionResultType]::ParameterValue, 'Print the manual page: `token-valet man | man -l -`')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'token-valet;run' {
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;exec' {
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;check' {
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('--online', '--online', [CompletionResultType]::ParameterName, 'Connect to the API too, without a request, and fetch a token if that uses nothing up')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;health' {
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'token-valet;quit' {
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;config' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('show', 'show', [CompletionResultType]::ParameterValue, 'The values in force and where each comes from, without secrets')
            [CompletionResult]::new('schema', 'schema', [CompletionResultType]::ParameterValue, 'A JSON Schema of the file, for editors')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'token-valet;config;show' {
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'The configuration')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;config;schema' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;config;help' {
            [CompletionResult]::new('show', 'show', [CompletionResultType]::ParameterValue, 'The values in force and where each comes from, without secrets')
            [CompletionResult]::new('schema', 'schema', [CompletionResultType]::ParameterValue, 'A JSON Schema of the file, for editors')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'token-valet;config;help;show' {
            break
        }
        'token-valet;config;help;schema' {
            break
        }
        'token-valet;config;help;help' {
            break
        }
        'token-valet;sandbox' {
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'A configuration to use instead of the built-in one; the command itself sets URLs, certificates and secrets')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration to use instead of the built-in one; the command itself sets URLs, certificates and secrets')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;completions' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;man' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'token-valet;help' {
            [CompletionResult]::new('run', 'run', [CompletionResultType]::ParameterValue, 'Run the sidecar')
            [CompletionResult]::new('exec', 'exec', [CompletionResultType]::ParameterValue, 'Run the sidecar and, after its first token, a command; end with the command, and its exit code')
            [CompletionResult]::new('check', 'check', [CompletionResultType]::ParameterValue, 'Tell every fault of the configuration at once')
            [CompletionResult]::new('health', 'health', [CompletionResultType]::ParameterValue, 'Ask a running sidecar whether it is alive, started or ready')
            [CompletionResult]::new('quit', 'quit', [CompletionResultType]::ParameterValue, 'Have a running sidecar drain and end, where `admin.quit = true` permits it')
            [CompletionResult]::new('config', 'config', [CompletionResultType]::ParameterValue, 'Show the configuration')
            [CompletionResult]::new('sandbox', 'sandbox', [CompletionResultType]::ParameterValue, 'Try the sidecar against an imitation of the provider, without credentials')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print what completes this command in a shell')
            [CompletionResult]::new('man', 'man', [CompletionResultType]::ParameterValue, 'Print the manual page: `token-valet man | man -l -`')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'token-valet;help;run' {
            break
        }
        'token-valet;help;exec' {
            break
        }
        'token-valet;help;check' {
            break
        }
        'token-valet;help;health' {
            break
        }
        'token-valet;help;quit' {
            break
        }
        'token-valet;help;config' {
            [CompletionResult]::new('show', 'show', [CompletionResultType]::ParameterValue, 'The values in force and where each comes from, without secrets')
            [CompletionResult]::new('schema', 'schema', [CompletionResultType]::ParameterValue, 'A JSON Schema of the file, for editors')
            break
        }
        'token-valet;help;config;show' {
            break
        }
        'token-valet;help;config;schema' {
            break
        }
        'token-valet;help;sandbox' {
            break
        }
        'token-valet;help;completions' {
            break
        }
        'token-valet;help;man' {
            break
        }
        'token-valet;help;help' {
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
