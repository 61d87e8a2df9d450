# Sinatra: ruby sinatra_app.rb PORT; APP_ENV=production hides what happened.
require 'sinatra/base'
require 'webrick'

class Shop < Sinatra::Base
  set :server, :webrick
  set :bind, '127.0.0.1'
  set :show_exceptions, development?
  set :raise_errors, false
  set :logging, false

  def price(article)
    { 'book' => 12 }.fetch(article)
  end

  get('/boom') { price('pen').to_s }
end

Shop.run!(port: ARGV[0].to_i, quiet: true, AccessLog: [], Logger: WEBrick::Log.new(File::NULL))
