# frozen_string_literal: true

# A target program: Sinatra, calling by Net::HTTP.
# For `puma matrix.ru`; GET /m/<shape>/<client>/<n> calls CALLED/n/<n>.
require 'net/http'
require 'sinatra/base'

class Matrix < Sinatra::Base
  CALLED = URI(ENV.fetch('CALLED'))
  set :environment, :production
  set :logging, false

  get('/ready') { "ready\n" }

  get '/m/:shape/:client/:n' do |shape, client, n|
    path = "/n/#{n}"
    fetch(client, path)
    case shape
    when 'two' then fetch(client, path)
    when 'mixed' then [1, 2].map { Thread.new { fetch(client, path) } }.each(&:join)
    when 'timer'
      sleep 0.002
      fetch(client, path)
    end
    content_type 'text/plain'
    "n=#{n}\n"
  end

  private

  # kept: a connection of the thread's own; close: one for each call.
  def fetch(client, path)
    return Net::HTTP.get(CALLED.host, path, CALLED.port) if client == 'close'

    kept = Thread.current[:called] ||= Net::HTTP.start(CALLED.host, CALLED.port)
    kept.get(path).body
  end
end
